// adjust_logits: logit + bias, penalised where the row has counts. A block takes 2048 tokens of a row through shared
// memory, where it adds the row's bias. Streams the logits, 4 bytes a logit of result, and 4 of counts if there are
// any. count_tokens: a thread per row.
#include "kernels/cuda/launch.h"
#include "kernels/dispatch.h"
#include "kernels/logit_adjustment.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

constexpr int kThreads = 256, kTokens = 8 * kThreads;

template <typename T>
struct AdjustArgs {
  const T* logits;
  int64_t stride, rows, vocab;
  const int32_t* counts;
  const int64_t *count_rows, *bias_offsets, *bias_ids;
  const float *penalties, *bias_values;
  float* adjusted;
};

template <typename T>
__global__ void adjust_logits_kernel(AdjustArgs<T> a) {
  __shared__ float logits[kTokens];
  AllowNext();
  AwaitPrevious();
  const int64_t row = blockIdx.y, first = int64_t{blockIdx.x} * kTokens;
  const int tokens = static_cast<int>(min(int64_t{kTokens}, a.vocab - first));
  const T* from = a.logits + row * a.stride + first;
  for (int i = static_cast<int>(threadIdx.x); i < tokens; i += kThreads) logits[i] = static_cast<float>(from[i]);
  __syncthreads();
  for (int64_t i = a.bias_offsets[row] + threadIdx.x; i < a.bias_offsets[row + 1]; i += kThreads) {
    const int64_t token = a.bias_ids[i] - first;
    if (token >= 0 && token < tokens) atomicAdd(&logits[token], a.bias_values[i]);
  }
  __syncthreads();
  float* to = a.adjusted + row * a.vocab + first;
  const int64_t count_row = a.count_rows[row];
  if (count_row < 0) {
    for (int i = static_cast<int>(threadIdx.x); i < tokens; i += kThreads) to[i] = logits[i];
    return;
  }
  const int32_t* counts = a.counts + count_row * a.vocab + first;
  const float repetition = a.penalties[row], frequency = a.penalties[a.rows + row],
              presence = a.penalties[2 * a.rows + row];
  for (int i = static_cast<int>(threadIdx.x); i < tokens; i += kThreads) {
    const int32_t counted = counts[i], times = counted & kTimesInCompletion;
    float logit = logits[i];
    if (counted != 0) logit = logit > 0 ? logit / repetition : logit * repetition;
    const float often = __fmul_rn(static_cast<float>(times), frequency);  // rounded as ATen's: no fused operation
    to[i] = logit - __fadd_rn(often, times > 0 ? presence : 0.0F);
  }
}

__global__ void count_tokens_kernel(int32_t* counts, const int64_t* count_rows, const int64_t* tokens, int64_t rows,
                                    int64_t vocab) {
  AllowNext();
  AwaitPrevious();
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= rows || count_rows[row] < 0) return;
  ++counts[count_rows[row] * vocab + tokens[row]];
}

at::Tensor AdjustLogits(const at::Tensor& logits, const at::Tensor& counts, const at::Tensor& count_rows,
                        const at::Tensor& penalties, const at::Tensor& bias_offsets, const at::Tensor& bias_ids,
                        const at::Tensor& bias_values) {
  CheckAdjustment(logits, counts, count_rows, penalties, bias_offsets, bias_ids, bias_values);
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  const at::Tensor dense = DenseRows(logits), dense_penalties = penalties.contiguous();
  at::Tensor adjusted = at::empty({rows, vocab}, logits.options().dtype(at::kFloat));
  if (adjusted.numel() == 0) return adjusted;
  const c10::DeviceGuard guard(logits.device());
  DispatchFloats("adjust_logits", logits, [&](auto zero) {
    using T = decltype(zero);
    const dim3 grid(static_cast<unsigned>((vocab + kTokens - 1) / kTokens), static_cast<unsigned>(rows));
    Launch(adjust_logits_kernel<T>, grid, kThreads, 0,
           AdjustArgs<T>{.logits = dense.const_data_ptr<T>(),
                         .stride = dense.stride(0),
                         .rows = rows,
                         .vocab = vocab,
                         .counts = counts.const_data_ptr<int32_t>(),
                         .count_rows = count_rows.const_data_ptr<int64_t>(),
                         .bias_offsets = bias_offsets.const_data_ptr<int64_t>(),
                         .bias_ids = bias_ids.const_data_ptr<int64_t>(),
                         .penalties = dense_penalties.const_data_ptr<float>(),
                         .bias_values = bias_values.const_data_ptr<float>(),
                         .adjusted = adjusted.mutable_data_ptr<float>()});
  });
  return adjusted;
}

at::Tensor CountTokens(const at::Tensor& counts, const at::Tensor& count_rows, const at::Tensor& tokens) {
  CheckCounting(counts, count_rows, tokens);
  const int64_t rows = tokens.size(0);
  if (rows == 0) return counts;
  const c10::DeviceGuard guard(counts.device());
  Launch(count_tokens_kernel, static_cast<unsigned>((rows + kThreads - 1) / kThreads), kThreads, 0,
         counts.mutable_data_ptr<int32_t>(), count_rows.const_data_ptr<int64_t>(), tokens.const_data_ptr<int64_t>(),
         rows, counts.size(1));
  return counts;
}

const bool registered =
    RegisterKernel(&Ops::adjust_logits, at::kCUDA, FusedDtypes(), AdjustLogits, AdjustLogitsSamples) &&
    RegisterKernel(&Ops::count_tokens, at::kCUDA, FusedDtypes(), CountTokens, CountTokensSamples);

}  // namespace
}  // namespace automodeld
