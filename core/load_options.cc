#include "core/load_options.h"

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <array>
#include <span>
#include <string_view>

#include "core/attention_names.h"
#include "core/listing.h"
#include "core/status.h"

namespace automodeld {

namespace {

struct DtypeWord {
  const char* word;
  const char* name;
};

constexpr std::array<DtypeWord, 6> kDtypes = {{{"bfloat16", "bfloat16"},
                                               {"bf16", "bfloat16"},
                                               {"float16", "float16"},
                                               {"half", "float16"},
                                               {"float32", "float32"},
                                               {"float", "float32"}}};
constexpr std::array<const char*, 4> kRecipes = {"", "tensorwise", "rowwise", "rowwise_with_gw_hp"};
constexpr std::array<const char*, 7> kKvDtypes = {"auto",        "float32", "float16", "bfloat16",
                                                  "float8_e4m3", "fp8",     "fp8_e4m3"};
constexpr size_t kMostFilters = 256;

absl::Status NotOneOf(const char* field, const std::string& value, const std::string& words) {
  return absl::InvalidArgumentError(fmt::format("{}: \"{}\" is not one of {}", field, Shortened(value), words));
}

absl::Status CheckWord(const char* field, const std::string& value, std::span<const char* const> words) {
  if (std::ranges::find(words, value) != words.end()) return absl::OkStatus();
  const bool may_be_empty = std::string_view(words[0]).empty();
  return NotOneOf(field, value, absl::StrJoin(words.begin() + (may_be_empty ? 1 : 0), words.end(), ", "));
}

absl::Status CheckMethods(const std::vector<SdpaMethod>& methods) {
  for (const auto& [method, name] : kSdpaMethods) {
    if (std::ranges::count(methods, method) < 2) continue;
    return absl::InvalidArgumentError(fmt::format("sdpa_method: {} occurs twice", name));
  }
  return absl::OkStatus();
}

absl::Status CheckFp8(const Fp8Config& config) {
  RETURN_IF_ERROR(CheckWord("fp8_config.recipe_name", config.recipe_name, kRecipes));
  if (config.filter_fqns.size() > kMostFilters) {
    return absl::InvalidArgumentError(
        fmt::format("fp8_config.filter_fqns: {} names is outside 0..{}", config.filter_fqns.size(), kMostFilters));
  }
  if (std::ranges::find(config.filter_fqns, "") == config.filter_fqns.end()) return absl::OkStatus();
  return absl::InvalidArgumentError("fp8_config.filter_fqns: an empty name would filter every module");
}

absl::Status CheckDevice(const std::string& device) {
  int32_t index = -1;
  if (device == "auto" || device == "cpu" || device == "cuda") return absl::OkStatus();
  if (device.starts_with("cuda:") && absl::ascii_isdigit(static_cast<unsigned char>(device[5])) &&
      absl::SimpleAtoi(device.substr(5), &index)) {
    return absl::OkStatus();
  }
  return NotOneOf("device", device, "auto, cpu, cuda, cuda:N");
}

}  // namespace

absl::Status CheckLoadOptions(const LoadOptions& options) {
  if (options.torch_dtype != "auto" && !CanonicalDtype(options.torch_dtype).has_value()) {
    return NotOneOf("torch_dtype", options.torch_dtype, "auto, " + DtypeWords());
  }
  RETURN_IF_ERROR(CheckWord("attn_implementation", options.attn_implementation, kAttentionLadder));
  RETURN_IF_ERROR(CheckMethods(options.sdpa_method));
  if (options.fp8_config.has_value()) RETURN_IF_ERROR(CheckFp8(*options.fp8_config));
  RETURN_IF_ERROR(CheckDevice(options.device));
  return CheckWord("engine.kv_cache_dtype", options.engine.kv_cache_dtype, kKvDtypes);
}

std::optional<std::string> CanonicalDtype(const std::string& word) {
  std::string lower = absl::AsciiStrToLower(word);
  if (lower.starts_with("torch.")) lower = lower.substr(6);
  const auto found = std::ranges::find_if(kDtypes, [&](const DtypeWord& dtype) { return lower == dtype.word; });
  if (found == kDtypes.end()) return std::nullopt;
  return found->name;
}

std::string DtypeWords() {
  return absl::StrJoin(kDtypes, ", ", [](std::string* out, const DtypeWord& dtype) { *out += dtype.word; });
}

}  // namespace automodeld
