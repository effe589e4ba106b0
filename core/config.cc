#include "core/config.h"

#include <absl/strings/str_join.h>

#include <cmath>
#include <utility>

#include "core/json.h"
#include "core/listing.h"
#include "core/status.h"

namespace automodeld {

namespace {

constexpr size_t kMostErrors = 20;

absl::StatusOr<nlohmann::json> Object(absl::StatusOr<nlohmann::json> json, const std::string& name) {
  if (json.ok() && !json->is_object()) {
    return absl::InvalidArgumentError(fmt::format("{}: {} is not a JSON object", name, Shown(*json)));
  }
  return json;
}

// Also 4096.0, which some tools write; but nothing that an int64 cannot hold.
std::optional<int64_t> AsInt(const nlohmann::json& value) {
  constexpr double kExact = 9007199254740992.0;  // 2^53
  if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) return std::nullopt;
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (std::trunc(number) != number || std::abs(number) > kExact) return std::nullopt;
  return static_cast<int64_t>(number);
}

// The paths of all values that are no objects: "rope_scaling.factor".
void AddLeaves(const nlohmann::json& object, const std::string& path, std::vector<std::string>& leaves) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object() && !value.empty()) {
      AddLeaves(value, path + key + ".", leaves);
    } else {
      leaves.push_back(path + key);
    }
  }
}

}  // namespace

absl::StatusOr<Config> Config::Parse(const std::string& text, const std::string& name) {
  Config config;
  config.name_ = name;
  ASSIGN_OR_RETURN(config.json_, Object(ParseJson(text, name), name));
  return config;
}

absl::StatusOr<Config> Config::Read(const std::string& folder, const std::string& name) {
  Config config;
  config.name_ = name;
  ASSIGN_OR_RETURN(config.json_, Object(ReadJson(folder, name), name));
  return config;
}

absl::Status Config::Override(const std::string& overrides) {
  ASSIGN_OR_RETURN(const nlohmann::json changes, Object(ParseJson(overrides, "config_overrides"), "config_overrides"));
  json_.update(changes, /*merge_objects=*/true);
  AddLeaves(changes, "", overridden_);
  return absl::OkStatus();
}

absl::Status Config::CheckOverridesRead(const std::string& who) const {
  std::vector<std::string> unread;
  for (const std::string& key : overridden_) {
    if (!looked_up_.contains(key)) unread.push_back(key);
  }
  if (unread.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("config_overrides: {} does not read {}", who, Listed(unread)));
}

ConfigReader::ConfigReader(const ConfigReader& parent, const std::string& key)
    : config_(parent.config_), object_(nullptr), path_(parent.path_ + key + "."), errors_(parent.errors_) {
  const nlohmann::json* value = parent.Find(key);
  if (value != nullptr && value->is_object()) object_ = value;
  if (value != nullptr && !value->is_object()) {
    errors_->push_back(fmt::format("{}: {}{}: {} is not an object", config_.name(), parent.path_, key, Shown(*value)));
  }
}

const nlohmann::json* ConfigReader::LookUp(const std::string& key) const {
  config_.looked_up_.insert(path_ + key);
  if (object_ == nullptr) return nullptr;
  const auto found = object_->find(key);
  return found == object_->end() ? nullptr : &*found;
}

const nlohmann::json* ConfigReader::Find(const std::string& key) const {
  const nlohmann::json* value = LookUp(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

bool ConfigReader::Has(const std::string& key) const { return Find(key) != nullptr; }

bool ConfigReader::Null(const std::string& key) const {
  const nlohmann::json* value = LookUp(key);
  return value != nullptr && value->is_null();
}

int64_t ConfigReader::Int(const std::string& key, int64_t default_value, int64_t low, int64_t high) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return default_value;
  const std::optional<int64_t> number = AsInt(*value);
  if (number.has_value() && low <= *number && *number <= high) return *number;
  Fail(key, value->is_number_integer() || number.has_value()
                ? fmt::format("{} is outside {}..{}", Shown(*value), low, high)
                : fmt::format("{} is not an integer", Shown(*value)));
  return default_value;
}

double ConfigReader::Double(const std::string& key, double default_value, double low, double high) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return default_value;
  if (!value->is_number()) {
    Fail(key, fmt::format("{} is not a number", Shown(*value)));
    return default_value;
  }
  const double number = value->get<double>();
  if (low <= number && number <= high) return number;
  Fail(key, fmt::format("{} is outside {}..{}", Shown(*value), low, high));
  return default_value;
}

bool ConfigReader::Bool(const std::string& key, bool default_value) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return default_value;
  if (value->is_boolean()) return value->get<bool>();
  Fail(key, fmt::format("{} is not true or false", Shown(*value)));
  return default_value;
}

std::string ConfigReader::String(const std::string& key, const std::string& default_value) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return default_value;
  if (value->is_string()) return value->get<std::string>();
  Fail(key, fmt::format("{} is not a string", Shown(*value)));
  return default_value;
}

int64_t ConfigReader::RequireInt(const std::string& key, int64_t low, int64_t high) {
  if (!Has(key)) Fail(key, "is required");
  return Int(key, low, low, high);
}

std::vector<int64_t> ConfigReader::Ints(const std::string& key) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return {};
  const nlohmann::json list = value->is_array() ? *value : nlohmann::json::array({*value});
  std::vector<int64_t> numbers;
  for (const nlohmann::json& item : list) {
    const std::optional<int64_t> number = AsInt(item);
    if (!number.has_value()) {
      Fail(key, fmt::format("{} is not an integer", Shown(item)));
      return {};
    }
    numbers.push_back(*number);
  }
  return numbers;
}

std::vector<std::string> ConfigReader::Strings(const std::string& key) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return {};
  std::vector<std::string> strings;
  for (const nlohmann::json& item : value->is_array() ? *value : nlohmann::json::array({*value})) {
    if (!item.is_string()) {
      Fail(key, fmt::format("{} is not a string", Shown(item)));
      return {};
    }
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

void ConfigReader::Fail(const std::string& key, const std::string& what) {
  errors_->push_back(fmt::format("{}: {}{}: {}", config_.name(), path_, key, what));
}

absl::Status ConfigReader::status() const {
  if (errors_->empty()) return absl::OkStatus();
  const auto shown = std::min(errors_->size(), kMostErrors);
  std::string message = absl::StrJoin(errors_->begin(), errors_->begin() + static_cast<std::ptrdiff_t>(shown), "; ");
  if (errors_->size() > shown) message += fmt::format("; and {} more", errors_->size() - shown);
  return absl::InvalidArgumentError(message);
}

}  // namespace automodeld
