#include "core/quantization.h"

#include <absl/strings/str_join.h>

#include <algorithm>
#include <array>
#include <vector>

#include "core/listing.h"
#include "core/status.h"

namespace automodeld {

namespace {

constexpr char kKey[] = "quantization_config";
constexpr char kModelOptFile[] = "hf_quant_config.json";
constexpr char kKnown[] = "known are fp8, compressed-tensors (float of 8 bits), modelopt (FP8) and fbgemm_fp8";

absl::Status NotUnderstood(const Config& config, const std::string& what) {
  return absl::UnimplementedError(
      fmt::format("{}: quantization: {} is not understood; {}", config.name(), Shortened(what), kKnown));
}

absl::Status CheckFp8(const Config& config, ConfigReader& read) {
  const std::string format = read.String("fmt", "e4m3");
  const std::vector<int64_t> block = read.Ints("weight_block_size");
  RETURN_IF_ERROR(read.status());
  if (format != "e4m3") return NotUnderstood(config, "fp8 with fmt " + format);
  if (block.empty() || block == std::vector<int64_t>{128, 128}) return absl::OkStatus();
  return NotUnderstood(config, fmt::format("fp8 with weight_block_size [{}]", absl::StrJoin(block, ", ")));
}

absl::Status CheckGroup(const Config& config, const ConfigReader& groups, const std::string& name) {
  ConfigReader weights(ConfigReader(groups, name), "weights");
  const int64_t bits = weights.Int("num_bits", 8, 1, 64);
  const std::string type = weights.String("type", "int");
  const std::string strategy = weights.String("strategy", "tensor");
  RETURN_IF_ERROR(weights.status());
  const bool known = strategy == "tensor" || strategy == "channel" || strategy == "block";
  if (bits == 8 && type == "float" && known) return absl::OkStatus();
  return NotUnderstood(config, fmt::format("compressed-tensors: {}: weights of {} bits, type {}, strategy {}", name,
                                           bits, type, strategy));
}

absl::Status CheckCompressedTensors(const Config& config, const ConfigReader& read) {
  const auto groups = config.json().at(kKey).find("config_groups");
  if (groups == config.json().at(kKey).end() || !groups->is_object() || groups->empty()) {
    return NotUnderstood(config, "compressed-tensors without config_groups");
  }
  const ConfigReader reader(read, "config_groups");
  for (const auto& [name, group] : groups->items()) RETURN_IF_ERROR(CheckGroup(config, reader, name));
  return absl::OkStatus();
}

absl::Status CheckModelOpt(const Config& config, ConfigReader& read) {
  const std::string algorithm = read.String("quant_algo", "");
  RETURN_IF_ERROR(read.status());
  return algorithm == "FP8" ? absl::OkStatus() : NotUnderstood(config, "modelopt with quant_algo " + algorithm);
}

absl::StatusOr<std::string> ReadModelOptFile(const std::string& folder) {
  absl::StatusOr<Config> file = Config::Read(folder, kModelOptFile);
  if (absl::IsNotFound(file.status())) return "";
  RETURN_IF_ERROR(file.status());
  ConfigReader read(ConfigReader(*file), "quantization");
  RETURN_IF_ERROR(CheckModelOpt(*file, read));
  return "modelopt";
}

}  // namespace

absl::StatusOr<std::string> ReadQuantization(const std::string& folder, const Config& config) {
  const ConfigReader whole(config);
  if (!whole.Has(kKey)) return folder.empty() ? "" : ReadModelOptFile(folder);
  ConfigReader read(whole, kKey);
  const std::string method = read.String("quant_method", "");
  RETURN_IF_ERROR(read.status());
  if (method == "fp8") {
    RETURN_IF_ERROR(CheckFp8(config, read));
  } else if (method == "compressed-tensors") {
    RETURN_IF_ERROR(CheckCompressedTensors(config, read));
  } else if (method == "modelopt") {
    RETURN_IF_ERROR(CheckModelOpt(config, read));
  } else if (method != "fbgemm_fp8") {
    return NotUnderstood(config, method.empty() ? "an unnamed quant_method" : "quant_method " + method);
  }
  return method;
}

bool IsUnneededScale(const std::string& name) {
  constexpr std::array<const char*, 8> kSuffixes = {".input_scale", ".input_scale_ub", ".k_scale",      ".v_scale",
                                                    ".q_scale",     ".kv_scale",       ".output_scale", ".prob_scale"};
  return std::ranges::any_of(kSuffixes, [&](const char* suffix) { return name.ends_with(suffix); });
}

}  // namespace automodeld
