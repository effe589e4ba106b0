#include "core/plan_torch.h"

#include <absl/strings/str_join.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/listing.h"
#include "core/load_options.h"
#include "core/status.h"

namespace automodeld {

namespace {

const char* ClassName(AutoClass auto_class) {
  switch (auto_class) {
    case AutoClass::kAuto:
      return "AUTO";
    case AutoClass::kCausalLM:
      return "CAUSAL_LM";
    case AutoClass::kImageTextToText:
      return "IMAGE_TEXT_TO_TEXT";
    case AutoClass::kEmbedding:
      return "EMBEDDING";
  }
  return "";
}

absl::Status Unknown(const Config& config, const std::string& name) {
  const std::string known = absl::StrJoin(ArchitectureNames(), ", ");
  if (ConfigReader(config).Has("auto_map")) {
    return absl::UnimplementedError(fmt::format(
        "{}: {} needs remote code, which automodeld never runs; known architectures: {}", config.name(), name, known));
  }
  return absl::UnimplementedError(
      fmt::format("{}: architecture {} is not known; known ones: {}", config.name(), name, known));
}

absl::Status WrongClass(const Architecture& row, AutoClass auto_class) {
  std::vector<std::string> classes;
  for (const AutoClass served : row.classes) classes.push_back(ClassName(served));
  return absl::InvalidArgumentError(fmt::format("auto_class: {} is not one of {}'s: {}", ClassName(auto_class),
                                                row.name, absl::StrJoin(classes, ", ")));
}

std::optional<at::ScalarType> ParseDtype(const std::string& text) {
  const std::optional<std::string> name = CanonicalDtype(text);
  if (!name.has_value()) return std::nullopt;
  return *name == "bfloat16" ? at::kBFloat16 : *name == "float16" ? at::kHalf : at::kFloat;
}

at::ScalarType StoredDtype(const Safetensors* files) {
  const StoredTensor* first = files == nullptr ? nullptr : files->FirstFloating();
  const std::string_view type = first == nullptr ? "F32" : first->type->name;
  if (type == "BF16" || type.starts_with("F8")) return at::kBFloat16;  // what is quantised to 8 bits had 16
  return type == "F16" ? at::kHalf : at::kFloat;
}

absl::Status NotYet(const std::string& field) {
  return absl::UnimplementedError(fmt::format("{}: not supported yet", field));
}

}  // namespace

absl::StatusOr<const Architecture*> ChooseArchitecture(const Config& config, AutoClass auto_class) {
  ConfigReader read(config);
  const std::vector<std::string> names = read.Strings("architectures");
  const std::string model_type = read.String("model_type", "");
  RETURN_IF_ERROR(read.status());
  const Architecture* row = names.empty() ? nullptr : FindArchitecture(names[0]);
  if (row == nullptr && (names.empty() || auto_class != AutoClass::kAuto))
    row = FindArchitecture(model_type, auto_class);
  if (row == nullptr)
    return Unknown(config, Shortened(names.empty() ? "of model_type \"" + model_type + "\"" : names[0]));
  if (auto_class == AutoClass::kAuto || std::ranges::find(row->classes, auto_class) != row->classes.end()) return row;
  return WrongClass(*row, auto_class);
}

absl::StatusOr<at::ScalarType> ChooseDtype(const std::string& torch_dtype, const Config& config,
                                           const Safetensors* files) {
  if (const auto dtype = ParseDtype(torch_dtype)) return *dtype;
  ConfigReader read(config);
  for (const char* key : {"dtype", "torch_dtype"}) {
    const std::string text = read.String(key, "");
    if (text.empty()) continue;
    if (const auto dtype = ParseDtype(text)) return *dtype;
    read.Fail(key, fmt::format("\"{}\" is not one of {}", Shortened(text), DtypeWords()));
  }
  RETURN_IF_ERROR(read.status());
  return StoredDtype(files);
}

std::string DtypeName(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? "bfloat16" : dtype == at::kHalf ? "float16" : "float32";
}

absl::Status CheckFieldsBuilt(const LoadOptions& options) {
  if (options.engine.enable_prefix_caching.value_or(false)) return NotYet("engine.enable_prefix_caching");
  return absl::OkStatus();
}

}  // namespace automodeld
