// A model's weights, planned on the meta device and then read: names, shapes, bytes, FP8.
//
//   ModelWeights weights({...});
//   RETURN_IF_ERROR(weights.PlanFp8("compressed-tensors"));
//   RETURN_IF_ERROR(weights.Plan(ops));            // everything missing, misshapen or unread, in one Status
//   try {
//     ASSIGN_OR_RETURN(model, weights.Read(ops));
//   } catch (const Fp8Failure& failure) {
//     RETURN_IF_ERROR(weights.GiveUpFp8(failure.what(), ops));
//     ASSIGN_OR_RETURN(model, weights.Read(ops));  // reads again only what was to be converted
//   }
// Used by the loading thread only.
#ifndef CORE_MODEL_WEIGHTS_TORCH_H_
#define CORE_MODEL_WEIGHTS_TORCH_H_

#include <ATen/ATen.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/auto_model.h"
#include "core/checkpoint.h"
#include "core/config.h"
#include "core/load_meter.h"
#include "core/models/architecture.h"
#include "core/patch.h"
#include "core/safetensors.h"
#include "core/weight_sources_torch.h"

namespace automodeld {

class ModelWeights {
 public:
  // What stays as it is while the model is loaded; pointers outlive this.
  struct Parts {
    const LoadOptions* options = nullptr;
    const LoadContext* context = nullptr;
    const Config* config = nullptr;
    const Architecture* architecture = nullptr;
    const Safetensors* files = nullptr;  // null: random weights
    double initializer_range = 0.02;
    at::TensorOptions target;
    LoadMeter* meter = nullptr;
  };
  explicit ModelWeights(const Parts& parts)
      : parts_(parts), fallbacks_(parts.options->allow_fallback, parts.context->fault) {}

  // Whether linears can be in FP8 on this device: a fallback if that was asked for, or is how the checkpoint has them
  // (`dialect`, as ReadQuantization), and they cannot.
  absl::Status PlanFp8(const std::string& dialect);
  // FAILED_PRECONDITION: what is missing, misshapen or unread.
  absl::Status Plan(const Ops& ops);
  // Throws Fp8Failure.
  absl::StatusOr<std::unique_ptr<Model>> Read(const Ops& ops);
  // Plans again without FP8, keeping what has been read.
  absl::Status GiveUpFp8(const std::string& why, const Ops& ops);

  int64_t num_parameters() const { return wanted_->num_parameters(); }
  int64_t bytes() const { return wanted_->kept_bytes(); }     // on the device, in the form they are kept
  int64_t borrowed_bytes() const { return borrowed_bytes_; }  // most taken besides while reading, on the CPU
  const Fallbacks& fallbacks() const { return fallbacks_; }
  // unread_tensors, fp8 and notes.
  void Report(LoadReport& report) const;

 private:
  // Makes the model on the meta device: all that it wants, and the form of every linear.
  void Ask(const Ops& ops);
  absl::Status CheckWanted();
  absl::StatusOr<bool> IsTiedCopy(const std::string& name);
  bool StoresFp8() const;
  template <typename Source>
  absl::StatusOr<std::unique_ptr<Model>> ReadFrom(Source source, const Ops& ops);

  const Parts parts_;
  WeightPlan plan_;
  std::string fp8_step_, fp8_fallback_;  // as a fallback names them
  std::optional<PlanningSource> wanted_;
  std::vector<std::string> unread_;
  int64_t borrowed_bytes_ = 0;
  Fallbacks fallbacks_;
};

}  // namespace automodeld

#endif  // CORE_MODEL_WEIGHTS_TORCH_H_
