#include "core/generation_config.h"

#include <limits>
#include <optional>
#include <vector>

#include "core/status.h"

namespace automodeld {

namespace {

constexpr char kFile[] = "generation_config.json";
constexpr double kMaxTemperature = 100.0;
constexpr double kMaxPenalty = 100.0;
constexpr int64_t kMaxTokenId = std::numeric_limits<TokenId>::max();

std::optional<float> MaybeFloat(ConfigReader& read, const char* key, double low, double high) {
  if (!read.Has(key)) return std::nullopt;
  return static_cast<float>(read.Double(key, low, low, high));
}

std::optional<int> MaybeInt(ConfigReader& read, const char* key, int64_t low, int64_t high) {
  if (!read.Has(key)) return std::nullopt;
  return static_cast<int>(read.Int(key, low, low, high));
}

std::vector<TokenId> EosTokenIds(ConfigReader& read) {
  std::vector<TokenId> ids;
  for (const int64_t id : read.Ints("eos_token_id")) {
    if (id < 0 || id > kMaxTokenId) {
      read.Fail("eos_token_id", fmt::format("{} is outside 0..{}", id, kMaxTokenId));
    } else {
      ids.push_back(static_cast<TokenId>(id));
    }
  }
  return ids;
}

GenerationDefaults ReadFields(ConfigReader& read) {
  GenerationDefaults defaults;
  defaults.temperature = MaybeFloat(read, "temperature", 0.0, kMaxTemperature);
  defaults.top_p = MaybeFloat(read, "top_p", 0.0, 1.0);
  defaults.min_p = MaybeFloat(read, "min_p", 0.0, 1.0);
  defaults.repetition_penalty = MaybeFloat(read, "repetition_penalty", 1e-3, kMaxPenalty);
  defaults.top_k = MaybeInt(read, "top_k", 0, std::numeric_limits<int>::max());
  defaults.max_new_tokens = MaybeInt(read, "max_new_tokens", 1, std::numeric_limits<int>::max());
  if (read.Has("do_sample")) defaults.do_sample = read.Bool("do_sample", false);
  defaults.eos_token_ids = EosTokenIds(read);
  return defaults;
}

absl::StatusOr<Config> ReadOrEmpty(const std::string& folder) {
  if (folder.empty()) return Config::Parse("{}", kFile);
  auto config = Config::Read(folder, kFile);
  return absl::IsNotFound(config.status()) ? Config::Parse("{}", kFile) : config;
}

}  // namespace

absl::StatusOr<GenerationDefaults> ReadGenerationDefaults(const std::string& folder, const Config& config) {
  ASSIGN_OR_RETURN(const Config file, ReadOrEmpty(folder));
  ConfigReader read(file);
  GenerationDefaults defaults = ReadFields(read);
  RETURN_IF_ERROR(read.status());
  if (!defaults.eos_token_ids.empty()) return defaults;
  ConfigReader model(config);
  defaults.eos_token_ids = EosTokenIds(model);
  RETURN_IF_ERROR(model.status());
  return defaults;
}

}  // namespace automodeld
