// Patching a model's operations and attention, each step with its fallback written down.
//
//   Fallbacks attention(options.allow_fallback), sdpa(...), fused(...);
//   ASSIGN_OR_RETURN(PatchedAttention patched, PatchAttention(options, needs, attention, sdpa));
//   ASSIGN_OR_RETURN(PatchedOps ops, PatchOps(options, {row.name, row.ops, DimsOf(shape), target}, fused));
//
// Follows nemo_automodel's `_assert_same_signature`, `_patch_attention` and `_patch_liger_kernel`.
#ifndef CORE_PATCH_H_
#define CORE_PATCH_H_

#include <ATen/ATen.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/auto_model.h"
#include "kernels/attention.h"
#include "kernels/op_samples.h"
#include "kernels/ops.h"

namespace automodeld {

// The fallbacks of one step, in order.
class Fallbacks {
 public:
  // `fault`: LoadContext's.
  explicit Fallbacks(bool allowed, std::function<absl::Status(std::string_view)> fault = nullptr)
      : allowed_(allowed), fault_(std::move(fault)) {}
  // Called first inside a step: what a test makes of it.
  absl::Status Begin(std::string_view step) const { return fault_ ? fault_(step) : absl::OkStatus(); }
  // FAILED_PRECONDITION where none is allowed.
  absl::Status Take(const std::string& what, const std::string& error, const std::string& fallback);
  const std::vector<LoadAttempt>& attempts() const { return attempts_; }

 private:
  bool allowed_;
  std::function<absl::Status(std::string_view)> fault_;
  std::vector<LoadAttempt> attempts_;
};

// Schemas as for torch::schema. Arguments (names, types, order, defaults, whether by keyword only), results and what
// aliases what must be the same; the operations' names may differ. INVALID_ARGUMENT otherwise, showing both.
absl::Status AssertSameSignature(const std::string& original_schema, const std::string& patched_schema);

struct PatchedAttention {
  std::unique_ptr<AttentionBackend> backend;
  std::vector<std::string> notes;  // LoadReport::notes
};

// The first of flash_attention_2, sdpa, eager, from options.attn_implementation on, that can do `needs`. The sdpa rung
// takes its kernels in the order of options.sdpa_method, or without an order if none of those fits. A sdpa_method that
// nothing uses is noted. CheckLoadOptions has passed.
//   FAILED_PRECONDITION  a fallback that is not allowed
//   UNIMPLEMENTED        not even eager can
absl::StatusOr<PatchedAttention> PatchAttention(const LoadOptions& options, const AttentionNeeds& needs,
                                                Fallbacks& attention, Fallbacks& sdpa);

// What operations are for.
struct OpTarget {
  std::string architecture;
  std::vector<std::string> ops;  // those it calls
  OpDims dims;
  at::TensorOptions options;  // the model's dtype and device
};

struct PatchedOps {
  Ops ops;
  std::vector<OpPatch> patches;
  std::vector<std::string> notes;  // LoadReport::notes
};

// The op table of a load: eager, over it the fused versions (use_liger_kernel), over those op_overrides. Each new
// version has eager's signature and has been tried once at the model's shapes.
//   INVALID_ARGUMENT     an override that is unknown, not called by the architecture, of another signature, or wrong
//   FAILED_PRECONDITION  a fallback that is not allowed
//   RESOURCE_EXHAUSTED   no memory to try them
absl::StatusOr<PatchedOps> PatchOps(const LoadOptions& options, const OpTarget& target, Fallbacks& fused);

// Puts the fused versions into the table: all there are, or none if one has another signature, throws or gives other
// values than eager. That is a fallback, and so is an architecture that calls no operation of the table. Of each
// operation that has no fused version here it is noted that it stays eager.
absl::StatusOr<PatchedOps> PatchFusedKernels(const Ops& eager, const FusedOps& fused, const OpTarget& target,
                                             Fallbacks& fallbacks);

}  // namespace automodeld

#endif  // CORE_PATCH_H_
