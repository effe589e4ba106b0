#include "server/options_file.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "core/status.h"
#include "server/message_json.h"

namespace automodeld {
namespace {

using nlohmann::json;

absl::StatusOr<json> ToJson(const YAML::Node& node, const std::string& where);

absl::StatusOr<json> MapToJson(const YAML::Node& node, const std::string& where) {
  json result = json::object();
  for (const auto& entry : node) {
    if (!entry.first.IsScalar()) return absl::InvalidArgumentError(fmt::format("{}: a key is not a text", where));
    const std::string key = entry.first.Scalar();
    const std::string name = where.empty() ? key : where + "." + key;
    if (result.contains(key)) return absl::InvalidArgumentError(fmt::format("{}: given twice", name));
    ASSIGN_OR_RETURN(result[key], ToJson(entry.second, name));
  }
  return result;
}

absl::StatusOr<json> ListToJson(const YAML::Node& node, const std::string& where) {
  json result = json::array();
  for (size_t i = 0; i < node.size(); ++i) {
    ASSIGN_OR_RETURN(json item, ToJson(node[i], fmt::format("{}[{}]", where, i)));
    result.push_back(std::move(item));
  }
  return result;
}

// Scalars stay texts: what type they have is known where the field is.
absl::StatusOr<json> ToJson(const YAML::Node& node, const std::string& where) {
  if (node.IsMap()) return MapToJson(node, where);
  if (node.IsSequence()) return ListToJson(node, where);
  if (node.IsScalar()) return json(node.Scalar());
  return absl::InvalidArgumentError(fmt::format("{}: has no value", where));
}

// yaml-cpp reports by exceptions.
absl::StatusOr<json> Parse(const std::string& yaml) {
  try {
    const YAML::Node root = YAML::Load(yaml);
    if (root.IsNull()) return json::object();
    if (!root.IsMap()) return absl::InvalidArgumentError("is not a map of options");
    return ToJson(root, "");
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(fmt::format("line {}: {}", error.mark.line + 1, error.msg));
  }
}

absl::StatusOr<std::vector<v1::LoadModelRequest>> ToModels(const json& list) {
  if (!list.is_array()) return absl::InvalidArgumentError("models: must be a list");
  std::vector<v1::LoadModelRequest> models(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    RETURN_IF_ERROR(JsonToMessage(list[i], fmt::format("models[{}]", i), &models[i]));
  }
  return models;
}

}  // namespace

absl::StatusOr<OptionsFile> ParseOptionsFile(const std::string& yaml) {
  ASSIGN_OR_RETURN(const json root, Parse(yaml));
  OptionsFile file;
  for (const auto& [key, value] : root.items()) {
    if (key == "models") {
      ASSIGN_OR_RETURN(file.models, ToModels(value));
    } else if (value.is_string()) {
      file.values[key] = value.get<std::string>();
    } else {
      return absl::InvalidArgumentError(fmt::format("{}: must be a single value", key));
    }
  }
  return file;
}

}  // namespace automodeld
