#include "server/options_file.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/status.h"
#include "server/message_json.h"

namespace automodeld {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 32;
constexpr int64_t kMaxBytes = 16 << 20;
constexpr int64_t kBytesOfValue = 64;  // beside its text

// An alias (*name) may stand within what it names, and a few lines of aliases may stand for billions of values; so
// both depth and size have a limit.
class Converter {
 public:
  // Scalars stay texts: what type they have is known where the field is.
  absl::StatusOr<json> ToJson(const YAML::Node& node, const std::string& where, int depth) {
    if (depth > kMaxDepth)
      return absl::InvalidArgumentError(fmt::format("{}: deeper than {} levels", where, kMaxDepth));
    bytes_ += kBytesOfValue + (node.IsScalar() ? static_cast<int64_t>(node.Scalar().size()) : 0);
    if (bytes_ > kMaxBytes) {
      return absl::InvalidArgumentError(
          fmt::format("{}: more than {} bytes, with aliases written out", where, kMaxBytes));
    }
    if (node.IsMap()) return MapToJson(node, where, depth);
    if (node.IsSequence()) return ListToJson(node, where, depth);
    if (node.IsScalar()) return json(node.Scalar());
    return absl::InvalidArgumentError(fmt::format("{}: has no value", where));
  }

 private:
  absl::StatusOr<json> MapToJson(const YAML::Node& node, const std::string& where, int depth) {
    json result = json::object();
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) return absl::InvalidArgumentError(fmt::format("{}: a key is not a text", where));
      const std::string key = entry.first.Scalar();
      const std::string name = where.empty() ? key : where + "." + key;
      if (result.contains(key)) return absl::InvalidArgumentError(fmt::format("{}: given twice", name));
      ASSIGN_OR_RETURN(result[key], ToJson(entry.second, name, depth + 1));
    }
    return result;
  }

  absl::StatusOr<json> ListToJson(const YAML::Node& node, const std::string& where, int depth) {
    json result = json::array();
    for (size_t i = 0; i < node.size(); ++i) {
      ASSIGN_OR_RETURN(json item, ToJson(node[i], fmt::format("{}[{}]", where, i), depth + 1));
      result.push_back(std::move(item));
    }
    return result;
  }

  int64_t bytes_ = 0;
};

// yaml-cpp reports by exceptions.
absl::StatusOr<json> Parse(const std::string& yaml) {
  try {
    const YAML::Node root = YAML::Load(yaml);
    if (root.IsNull()) return json::object();
    if (!root.IsMap()) return absl::InvalidArgumentError("is not a map of options");
    return Converter().ToJson(root, "", 0);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(fmt::format("line {}: {}", error.mark.line + 1, error.msg));
  }
}

bool IsListOfTexts(const json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(), [](const json& item) { return item.is_string(); });
}

absl::StatusOr<std::vector<v1::LoadModelRequest>> ToModels(const json& list) {
  if (!list.is_array()) return absl::InvalidArgumentError("models: must be a list");
  std::vector<v1::LoadModelRequest> models(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = fmt::format("models[{}]", i);
    RETURN_IF_ERROR(JsonToMessage(list[i], where, &models[i]));
    if (models[i].check_only()) {
      return absl::InvalidArgumentError(where +
                                        ".check_only: serve loads its models; `automodeld check` only tries one");
    }
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
      file.values[key] = {value.get<std::string>()};
    } else if (IsListOfTexts(value)) {
      file.values[key] = value.get<std::vector<std::string>>();
    } else {
      return absl::InvalidArgumentError(fmt::format("{}: must be a single value", key));
    }
  }
  return file;
}

}  // namespace automodeld
