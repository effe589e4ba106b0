// config.json (and its neighbours) as typed look-ups.
//
//   ConfigReader read(config);                            // collects every error
//   c.hidden_size = read.Int("hidden_size", 4096, 1, 1 << 20);
//   c.eps = read.Double("rms_norm_eps", 1e-6, 0, 1);
//   RETURN_IF_ERROR(read.status());                       // one Status that lists all
//
// Defaults given by the caller are those of transformers' configuration class for the model_type. Torch-free.
#ifndef CORE_CONFIG_H_
#define CORE_CONFIG_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace automodeld {

// A JSON object and the file it came from (a bare name such as "config.json", used in messages).
class Config {
 public:
  Config() = default;
  // INVALID_ARGUMENT: not JSON, not an object, nested deeper than 64, or larger than 16 MiB.
  static absl::StatusOr<Config> Parse(const std::string& text, const std::string& name);
  // NOT_FOUND: no such file.
  static absl::StatusOr<Config> Read(const std::string& folder, const std::string& name);

  const nlohmann::json& json() const { return json_; }
  const std::string& name() const { return name_; }
  // Merges `overrides` (a JSON object's text) over this one, objects key by key.
  absl::Status Override(const std::string& overrides);
  // INVALID_ARGUMENT listing what Override set and no reader has asked for since; `who` is the architecture's name.
  absl::Status CheckOverridesRead(const std::string& who) const;

 private:
  friend class ConfigReader;
  nlohmann::json json_ = nlohmann::json::object();
  std::string name_ = "config.json";
  std::vector<std::string> overridden_;      // "rope_scaling.factor": down to single values
  mutable std::set<std::string> looked_up_;  // by readers, on the load's thread
};

// Typed access with ranges. A key that is absent or null takes the default; one of the wrong type or outside its range
// is recorded as `config.json: hidden_size: -3 is outside 1..1048576`, and the default is returned.
class ConfigReader {
 public:
  explicit ConfigReader(const Config& config) : config_(config), object_(&config.json()) {}
  // A nested object, such as rope_parameters; reads as empty where it is absent or null.
  ConfigReader(const ConfigReader& parent, const std::string& key);

  bool Has(const std::string& key) const;  // present and not null
  bool empty() const { return object_ == nullptr || object_->empty(); }
  bool Null(const std::string& key) const;  // present and null, which transformers tells from absent
  int64_t Int(const std::string& key, int64_t default_value, int64_t low, int64_t high);
  double Double(const std::string& key, double default_value, double low, double high);
  bool Bool(const std::string& key, bool default_value);
  std::string String(const std::string& key, const std::string& default_value);
  int64_t RequireInt(const std::string& key, int64_t low, int64_t high);  // absent is an error
  std::vector<int64_t> Ints(const std::string& key);                      // an integer or a list of them; absent: {}
  std::vector<std::string> Strings(const std::string& key);
  void Fail(const std::string& key, const std::string& what);  // records `config.json: key: what`

  absl::Status status() const;  // INVALID_ARGUMENT listing every error, of nested readers too

 private:
  const nlohmann::json* Find(const std::string& key) const;  // null: absent or null
  const nlohmann::json* LookUp(const std::string& key) const;

  const Config& config_;
  const nlohmann::json* object_;
  std::string path_;  // "rope_parameters."
  std::shared_ptr<std::vector<std::string>> errors_ = std::make_shared<std::vector<std::string>>();
};

}  // namespace automodeld

#endif  // CORE_CONFIG_H_
