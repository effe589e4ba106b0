// What the versions of adjust_logits and count_tokens share (kernels/ops.h).
#ifndef KERNELS_LOGIT_ADJUSTMENT_H_
#define KERNELS_LOGIT_ADJUSTMENT_H_

#include <cstdint>
#include <limits>

#include "kernels/tensors.h"

namespace automodeld {

// An element of `counts`.
inline constexpr int32_t kInPrompt = std::numeric_limits<int32_t>::min();
inline constexpr int32_t kTimesInCompletion = std::numeric_limits<int32_t>::max();

inline void CheckCounts(const char* what, const at::Tensor& counts, int64_t vocab) {
  CheckShape(what, counts, {counts.size(0), vocab});
  CheckType(what, counts, at::kInt);
  TORCH_CHECK(counts.is_contiguous(), what, " is not contiguous");
}

// A dense vector.
inline void CheckVector(const char* what, const at::Tensor& x, int64_t size, at::ScalarType type) {
  CheckShape(what, x, {size});
  CheckType(what, x, type);
  TORCH_CHECK(x.is_contiguous(), what, " is not contiguous");
}

inline void CheckAdjustment(const at::Tensor& logits, const at::Tensor& counts, const at::Tensor& count_rows,
                            const at::Tensor& penalties, const at::Tensor& bias_offsets, const at::Tensor& bias_ids,
                            const at::Tensor& bias_values) {
  TORCH_CHECK(logits.dim() == 2, "adjust_logits: logits have shape ", logits.sizes(), ", expected [rows, vocab]");
  const int64_t rows = logits.size(0), entries = bias_ids.numel();
  CheckCounts("adjust_logits: counts", counts, logits.size(1));
  CheckVector("adjust_logits: count_rows", count_rows, rows, at::kLong);
  CheckShape("adjust_logits: penalties", penalties, {3, rows});
  CheckType("adjust_logits: penalties", penalties, at::kFloat);
  CheckVector("adjust_logits: bias_offsets", bias_offsets, rows + 1, at::kLong);
  CheckVector("adjust_logits: bias_ids", bias_ids, entries, at::kLong);
  CheckVector("adjust_logits: bias_values", bias_values, entries, at::kFloat);
}

inline void CheckCounting(const at::Tensor& counts, const at::Tensor& count_rows, const at::Tensor& tokens) {
  CheckCounts("count_tokens: counts", counts, counts.size(1));
  CheckVector("count_tokens: count_rows", count_rows, tokens.numel(), at::kLong);
  CheckVector("count_tokens: tokens", tokens, tokens.numel(), at::kLong);
}

}  // namespace automodeld

#endif  // KERNELS_LOGIT_ADJUSTMENT_H_
