#include "core/model_weights_torch.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "core/device_torch.h"
#include "core/listing.h"
#include "core/plan_torch.h"
#include "core/quantization.h"
#include "core/status.h"
#include "kernels/fp8.h"

namespace automodeld {

namespace {

bool IsIgnorable(const Architecture& architecture, const std::string& name) {
  return std::ranges::any_of(architecture.ignorable,
                             [&](const std::string& part) { return name.find(part) != std::string::npos; });
}

// fp8_config=tensorwise
std::string StepName(const Fp8Config& config) {
  return fmt::format("fp8_config={}", config.recipe_name.empty() ? "tensorwise" : config.recipe_name);
}

}  // namespace

bool ModelWeights::StoresFp8() const {
  if (parts_.files == nullptr) return false;
  return std::ranges::any_of(parts_.files->tensors(), [](const auto& entry) { return AsStored(&entry.second)->fp8; });
}

absl::Status ModelWeights::PlanFp8(const std::string& dialect) {
  plan_.fp8_fault = [this] { return fallbacks_.Begin("fp8"); };
  const std::optional<Fp8Config>& config = parts_.options->fp8_config;
  const bool stored = StoresFp8();
  if (!config.has_value() && !stored) return absl::OkStatus();
  if (stored) {
    fp8_step_ = fmt::format("quantization_config={}", dialect.empty() ? "fp8" : dialect);
    fp8_fallback_ = "dequantised to " + DtypeName(c10::typeMetaToScalarType(parts_.target.dtype()));
  } else {
    fp8_step_ = StepName(*config);
    fp8_fallback_ = "unquantised";
  }
  const bool emulate = config.has_value() && config->emulate;
  const std::string why_not = emulate ? "" : WhyNoFp8Gemm(parts_.target.device());
  plan_.fp8 = Fp8Plan(config, why_not);
  if (why_not.empty()) return absl::OkStatus();
  const std::string hint = why_not + "; fp8_config.emulate computes the same numbers without, but slowly";
  return fallbacks_.Take(fp8_step_, hint, fp8_fallback_);
}

absl::Status ModelWeights::Plan(const Ops& ops) {
  Ask(ops);
  return CheckWanted();
}

void ModelWeights::Ask(const Ops& ops) {
  wanted_.emplace(parts_.files, parts_.architecture->base_prefix);
  plan_.planning = true;
  parts_.architecture->make(*parts_.config, Weights(&*wanted_, parts_.target.device(at::kMeta), &plan_), ops);
  plan_.planning = false;
}

absl::Status ModelWeights::CheckWanted() {
  const Architecture& architecture = *parts_.architecture;
  const bool stores_fp8 = StoresFp8();
  unread_ = wanted_->Unread();
  std::vector<std::string> refused;
  for (const std::string& name : unread_) {
    if (IsIgnorable(architecture, name) || (stores_fp8 && IsUnneededScale(name))) continue;
    ASSIGN_OR_RETURN(const bool is_tied_copy, IsTiedCopy(name));
    if (!is_tied_copy) refused.push_back(name);
  }
  const bool allowed = parts_.options->allow_unread_tensors;
  RETURN_IF_ERROR(wanted_->Check(architecture.name, allowed ? std::vector<std::string>{} : refused));
  if (!refused.empty()) {
    spdlog::warn("{}: {} tensors are not read: {}", parts_.options->model, refused.size(), Listed(refused));
  }
  return absl::OkStatus();
}

// Whether `name` is a second copy of the tensor to which tie_word_embeddings ties it; a tensor that differs contradicts
// the configuration.
absl::StatusOr<bool> ModelWeights::IsTiedCopy(const std::string& name) {
  const Architecture& architecture = *parts_.architecture;
  const auto& [copy, original] = architecture.tied;
  const StoredTensor* stored = copy.empty() ? nullptr : FindStored(*parts_.files, architecture.base_prefix, copy);
  const StoredTensor* tied_to = FindStored(*parts_.files, architecture.base_prefix, original);
  if (stored == nullptr || stored->name != name || tied_to == nullptr) return false;
  ASSIGN_OR_RETURN(const bool equal, parts_.files->Equal(*stored, *tied_to, [this] { return parts_.meter->Check(); }));
  if (!equal) wanted_->Fail(fmt::format("{} differs from {}, to which tie_word_embeddings ties it", copy, original));
  return equal;
}

absl::StatusOr<std::unique_ptr<Model>> ModelWeights::Read(const Ops& ops) {
  parts_.meter->Begin("weights", parts_.files != nullptr ? wanted_->stored_bytes() : bytes());
  RETURN_IF_ERROR(parts_.meter->Check());
  ResetPeakBytes(parts_.target.device());
  if (parts_.files == nullptr) {
    return ReadFrom(RandomSource(parts_.options->seed, parts_.initializer_range, parts_.meter), ops);
  }
  std::vector<PlanningSource::Wanted> ahead = wanted_->wanted();  // but for what an earlier try has read
  std::erase_if(ahead, [this](const PlanningSource::Wanted& tensor) { return plan_.read.contains(tensor.name); });
  return ReadFrom(
      SafetensorsSource(*parts_.files, parts_.architecture->base_prefix, ahead, parts_.target.device(), parts_.meter),
      ops);
}

template <typename Source>
absl::StatusOr<std::unique_ptr<Model>> ModelWeights::ReadFrom(Source source, const Ops& ops) {
  std::unique_ptr<Model> model =
      parts_.architecture->make(*parts_.config, Weights(&source, parts_.target, &plan_), ops);
  RETURN_IF_ERROR(source.status());
  borrowed_bytes_ = source.extra_bytes() + source.borrowed_bytes();
  plan_.read.clear();
  return model;
}

absl::Status ModelWeights::GiveUpFp8(const std::string& why, const Ops& ops) {
  RETURN_IF_ERROR(fallbacks_.Take(fp8_step_, why, fp8_fallback_));
  plan_.fp8 = Fp8Plan(parts_.options->fp8_config, why);
  Ask(ops);  // for what was checked already, in other forms
  return absl::OkStatus();
}

void ModelWeights::Report(LoadReport& report) const {
  report.unread_tensors = unread_;
  report.weight_bytes = bytes();
  if (!parts_.options->fp8_config.has_value() && !StoresFp8()) return;
  report.fp8 = plan_.fp8.report();
  for (std::string& note : plan_.fp8.Notes()) report.notes.push_back(std::move(note));
  if (parts_.options->fp8_config.has_value() && !report.fp8->success && fallbacks_.attempts().empty()) {
    report.notes.push_back("fp8_config converted nothing: every linear is skipped");
  }
}

}  // namespace automodeld
