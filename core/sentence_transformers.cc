#include "core/sentence_transformers.h"

#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "core/config.h"
#include "core/file.h"
#include "core/json.h"
#include "core/listing.h"
#include "core/status.h"

namespace automodeld {

namespace {

constexpr char kModules[] = "modules.json";
constexpr char kPrompts[] = "config_sentence_transformers.json";
constexpr int64_t kMaxSequence = 1 << 20;

struct PoolingMode {
  const char* name;  // since version 6
  const char* flag;  // before
  Pooling pooling;
};

constexpr std::array<PoolingMode, 6> kPoolingModes = {{
    {"cls", "pooling_mode_cls_token", Pooling::kCls},
    {"max", "pooling_mode_max_tokens", Pooling::kMax},
    {"mean", "pooling_mode_mean_tokens", Pooling::kMean},
    {"mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", Pooling::kMeanSqrtLen},
    {"weightedmean", "pooling_mode_weightedmean_tokens", Pooling::kWeightedMean},
    {"lasttoken", "pooling_mode_lasttoken", Pooling::kLastToken},
}};

// As Config::Read, but nothing where there is no such file.
absl::StatusOr<std::optional<Config>> Optional(absl::StatusOr<Config> config) {
  if (absl::IsNotFound(config.status())) return std::nullopt;
  if (!config.ok()) return config.status();
  return *std::move(config);
}

absl::StatusOr<Pooling> OnlyMode(const Config& config, const std::vector<Pooling>& modes) {
  if (modes.empty()) return Pooling::kMean;
  if (modes.size() == 1) return modes[0];
  return absl::UnimplementedError(
      fmt::format("{}: {} pooling modes at once are not supported, only one", config.name(), modes.size()));
}

absl::StatusOr<Pooling> NamedMode(const Config& config, const std::vector<std::string>& names) {
  std::vector<Pooling> modes;
  for (const std::string& name : names) {
    for (const PoolingMode& mode : kPoolingModes) {
      if (name == mode.name) modes.push_back(mode.pooling);
    }
  }
  if (modes.size() == names.size()) return OnlyMode(config, modes);
  return absl::UnimplementedError(
      fmt::format("{}: pooling_mode: {} is not one of cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken",
                  config.name(), Listed(names)));
}

absl::StatusOr<Pooling> ReadPooling(const Config& config) {
  ConfigReader read(config);
  const std::vector<std::string> names = read.Strings("pooling_mode");
  std::vector<Pooling> flagged;
  for (const PoolingMode& mode : kPoolingModes) {
    if (read.Bool(mode.flag, false)) flagged.push_back(mode.pooling);
  }
  const bool with_prompt = read.Bool("include_prompt", true);
  RETURN_IF_ERROR(read.status());
  if (!with_prompt) {
    return absl::UnimplementedError(fmt::format("{}: include_prompt: false is not supported", config.name()));
  }
  return names.empty() ? OnlyMode(config, flagged) : NamedMode(config, names);
}

struct Module {
  std::string kind;  // Transformer, Pooling, Normalize, …: the last part of `type`
  std::string path;
};

// Empty where there is no such string.
std::string StringAt(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return "";
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

absl::StatusOr<std::vector<Module>> ParseModules(const nlohmann::json& list) {
  std::vector<Module> modules;
  for (const nlohmann::json& entry : list) {
    const std::string type = StringAt(entry, "type");
    if (type.empty()) return absl::InvalidArgumentError(fmt::format("{}: {}: has no type", kModules, modules.size()));
    modules.push_back({type.substr(type.rfind('.') + 1), StringAt(entry, "path")});
  }
  return modules;
}

absl::Status ApplyPooling(const std::string& folder, const Module& module, EmbeddingDefaults& defaults) {
  if (!IsBareName(module.path)) {
    return absl::InvalidArgumentError(
        fmt::format("{}: path: {} is not the name of a folder in the checkpoint", kModules, Shortened(module.path)));
  }
  ASSIGN_OR_RETURN(const Config config, Config::Read(folder, module.path + "/config.json"));
  ASSIGN_OR_RETURN(defaults.pooling, ReadPooling(config));
  return absl::OkStatus();
}

absl::Status ApplyModules(const std::string& folder, const std::vector<Module>& modules, EmbeddingDefaults& defaults) {
  static constexpr std::array<const char*, 3> kOrder = {"Transformer", "Pooling", "Normalize"};
  size_t next = 0;
  defaults.normalize = false;
  for (const Module& module : modules) {
    while (next < kOrder.size() && module.kind != kOrder[next]) ++next;
    if (next == kOrder.size()) {
      return absl::UnimplementedError(
          fmt::format("{}: {} is not supported here: only Transformer, Pooling, Normalize in this order", kModules,
                      Shortened(module.kind)));
    }
    if (next == 0 && !module.path.empty()) {
      return absl::UnimplementedError(fmt::format("{}: Transformer in a folder of its own ({}) is not supported",
                                                  kModules, Shortened(module.path)));
    }
    if (next == 1) RETURN_IF_ERROR(ApplyPooling(folder, module, defaults));
    if (next == 2) defaults.normalize = true;
    ++next;
  }
  return absl::OkStatus();
}

absl::Status ReadModules(const std::string& folder, EmbeddingDefaults& defaults) {
  const absl::StatusOr<nlohmann::json> json = ReadJson(folder, kModules);
  if (absl::IsNotFound(json.status())) return absl::OkStatus();
  RETURN_IF_ERROR(json.status());
  if (!json->is_array()) return absl::InvalidArgumentError(fmt::format("{}: not a list", kModules));
  ASSIGN_OR_RETURN(const std::vector<Module> modules, ParseModules(*json));
  return ApplyModules(folder, modules, defaults);
}

// sentence_bert_config.json, under the name of the class that once wrote it.
absl::Status ReadTransformer(const std::string& folder, EmbeddingDefaults& defaults) {
  for (const char* kind : {"bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"}) {
    ASSIGN_OR_RETURN(const std::optional<Config> config,
                     Optional(Config::Read(folder, fmt::format("sentence_{}_config.json", kind))));
    if (!config.has_value()) continue;
    ConfigReader read(*config);
    defaults.max_seq_length = static_cast<int>(read.Int("max_seq_length", 0, 1, kMaxSequence));
    const bool lower = read.Bool("do_lower_case", false);
    RETURN_IF_ERROR(read.status());
    if (lower) return absl::UnimplementedError(fmt::format("{}: do_lower_case: true is not supported", config->name()));
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status ReadPrompts(const std::string& folder, EmbeddingDefaults& defaults) {
  ASSIGN_OR_RETURN(const std::optional<Config> config, Optional(Config::Read(folder, kPrompts)));
  if (!config.has_value()) return absl::OkStatus();
  ConfigReader read(*config);
  ConfigReader prompts(read, "prompts");
  if (const auto list = config->json().find("prompts"); list != config->json().end() && list->is_object()) {
    for (const auto& [name, text] : list->items()) {
      if (!text.is_null()) defaults.prompts[name] = prompts.String(name, "");
    }
  }
  defaults.default_prompt_name = read.String("default_prompt_name", "");
  if (!defaults.default_prompt_name.empty() && !defaults.prompts.contains(defaults.default_prompt_name)) {
    read.Fail("default_prompt_name", fmt::format("{} is not one of prompts", Shortened(defaults.default_prompt_name)));
  }
  return read.status();
}

}  // namespace

absl::StatusOr<EmbeddingDefaults> ReadEmbeddingDefaults(const std::string& folder, bool causal) {
  EmbeddingDefaults defaults;
  defaults.pooling = causal ? Pooling::kLastToken : Pooling::kMean;
  if (folder.empty()) return defaults;
  RETURN_IF_ERROR(ReadModules(folder, defaults));
  RETURN_IF_ERROR(ReadTransformer(folder, defaults));
  RETURN_IF_ERROR(ReadPrompts(folder, defaults));
  return defaults;
}

}  // namespace automodeld
