// Bias, masks and penalties in plain ATen, without a look at a device's data.
#include "kernels/eager/eager.h"
#include "kernels/logit_adjustment.h"

namespace automodeld::eager {

at::Tensor AdjustLogits(const at::Tensor& logits, const at::Tensor& counts, const at::Tensor& count_rows,
                        const at::Tensor& penalties, const at::Tensor& bias_offsets, const at::Tensor& bias_ids,
                        const at::Tensor& bias_values) {
  const int64_t entries = bias_ids.size(0);
  at::Tensor y = logits.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  const at::Tensor row = at::repeat_interleave(bias_offsets.diff(), std::optional<int64_t>(entries));
  y.index_put_({row, bias_ids}, bias_values, /*accumulate=*/true);
  if (counts.size(0) == 0) return y;

  const at::Tensor counted = counts.index_select(0, count_rows.clamp_min(0)) * count_rows.ge(0).unsqueeze(-1);
  const at::Tensor times = counted.bitwise_and(kTimesInCompletion), seen = counted.ne(0);
  const auto penalty = [&](int64_t i) { return penalties[i].unsqueeze(-1); };
  y = at::where(seen, at::where(y > 0, y / penalty(0), y * penalty(0)), y);
  return y - (times * penalty(1) + times.gt(0) * penalty(2));
}

at::Tensor CountTokens(const at::Tensor& counts, const at::Tensor& count_rows, const at::Tensor& tokens) {
  if (counts.size(0) == 0) return counts;
  const at::Tensor cell = count_rows.clamp_min(0) * counts.size(1) + tokens;
  at::Tensor cells = counts.view(-1);
  cells.index_add_(0, cell, count_rows.ge(0).to(counts.scalar_type()));
  return counts;
}

}  // namespace automodeld::eager
