// adjust_logits and count_tokens, a row at a time.
#include "kernels/cpu/rows.h"
#include "kernels/dispatch.h"
#include "kernels/logit_adjustment.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

struct Penalties {
  float repetition, frequency, presence;
};

void Penalise(const int32_t* counts, Penalties p, int64_t vocab, float* logits) {
  for (int64_t t = 0; t < vocab; ++t) {
    const int32_t times = counts[t] & kTimesInCompletion;
    const float logit = logits[t], scaled = logit > 0 ? logit / p.repetition : logit * p.repetition;
    const float made = times > 0 ? p.presence : 0.0F;
    logits[t] = (counts[t] != 0 ? scaled : logit) - (static_cast<float>(times) * p.frequency + made);
  }
}

at::Tensor AdjustLogits(const at::Tensor& logits, const at::Tensor& counts, const at::Tensor& count_rows,
                        const at::Tensor& penalties, const at::Tensor& bias_offsets, const at::Tensor& bias_ids,
                        const at::Tensor& bias_values) {
  CheckAdjustment(logits, counts, count_rows, penalties, bias_offsets, bias_ids, bias_values);
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  at::Tensor adjusted = logits.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true).contiguous();
  const at::Tensor dense = penalties.contiguous();
  const auto *count_row = count_rows.const_data_ptr<int64_t>(), *offsets = bias_offsets.const_data_ptr<int64_t>(),
             *ids = bias_ids.const_data_ptr<int64_t>();
  const auto *values = bias_values.const_data_ptr<float>(), *p = dense.const_data_ptr<float>();
  ForRows(rows, vocab, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = adjusted.mutable_data_ptr<float>() + r * vocab;
      for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i) row[ids[i]] += values[i];
      if (count_row[r] < 0) continue;
      Penalise(counts.const_data_ptr<int32_t>() + count_row[r] * vocab, {p[r], p[rows + r], p[2 * rows + r]}, vocab,
               row);
    }
  });
  return adjusted;
}

at::Tensor CountTokens(const at::Tensor& counts, const at::Tensor& count_rows, const at::Tensor& tokens) {
  CheckCounting(counts, count_rows, tokens);
  const auto *count_row = count_rows.const_data_ptr<int64_t>(), *token = tokens.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < tokens.size(0); ++r) {
    if (count_row[r] >= 0) ++counts.mutable_data_ptr<int32_t>()[count_row[r] * counts.size(1) + token[r]];
  }
  return counts;
}

const bool registered =
    RegisterKernel(&Ops::adjust_logits, at::kCPU, FusedDtypes(), AdjustLogits, AdjustLogitsSamples) &&
    RegisterKernel(&Ops::count_tokens, at::kCPU, FusedDtypes(), CountTokens, CountTokensSamples);

}  // namespace
}  // namespace automodeld
