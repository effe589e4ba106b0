// Patching a model's operations and attention, each step with its fallback written down.
//
//   Fallbacks attention(options.allow_fallback), sdpa(...), fused(...);
//   ASSIGN_OR_RETURN(auto backend, PatchAttention(options, needs, attention, sdpa));
//   ASSIGN_OR_RETURN(PatchedOps ops, PatchFusedKernels(eager, FindFusedOps(eager, row.ops, device, dtype), fused));
//
// Follows nemo_automodel's `_assert_same_signature`, `_patch_attention` and `_patch_liger_kernel`.
#ifndef CORE_PATCH_H_
#define CORE_PATCH_H_

#include <ATen/ATen.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <memory>
#include <string>
#include <vector>

#include "core/auto_model.h"
#include "kernels/attention.h"
#include "kernels/ops.h"

namespace automodeld {

// The fallbacks of one step, in order.
class Fallbacks {
 public:
  explicit Fallbacks(bool allowed) : allowed_(allowed) {}
  // FAILED_PRECONDITION where none is allowed.
  absl::Status Take(const std::string& what, const std::string& error, const std::string& fallback);
  // What was asked for and is not there, without anything having failed: reported, and never an error.
  void Note(const std::string& what, const std::string& error, const std::string& instead);
  const std::vector<LoadAttempt>& attempts() const { return attempts_; }

 private:
  bool allowed_;
  std::vector<LoadAttempt> attempts_;
};

// Schemas as for torch::schema. Arguments (names, types, order, defaults) and results must be the same; the operations'
// names may differ. INVALID_ARGUMENT otherwise, showing both.
absl::Status AssertSameSignature(const std::string& original_schema, const std::string& patched_schema);

// The first of flash_attention_2, sdpa, eager, from options.attn_implementation on, that can do `needs`. The sdpa rung
// takes its kernels in the order of options.sdpa_method, or without an order if none of those fits. A sdpa_method that
// nothing uses is noted. CheckLoadOptions has passed.
//   FAILED_PRECONDITION  a fallback that is not allowed
//   UNIMPLEMENTED        not even eager can
absl::StatusOr<std::unique_ptr<AttentionBackend>> PatchAttention(const LoadOptions& options,
                                                                 const AttentionNeeds& needs, Fallbacks& attention,
                                                                 Fallbacks& sdpa);

struct PatchedOps {
  Ops ops;
  std::vector<OpPatch> patches;
};

// Puts the fused versions into the table: all there are, or none if a signature differs. That there are none at all is
// a fallback; of an operation that has none alone it is noted that it stays eager.
absl::StatusOr<PatchedOps> PatchFusedKernels(const Ops& eager, const FusedOps& fused, Fallbacks& fallbacks);

}  // namespace automodeld

#endif  // CORE_PATCH_H_
