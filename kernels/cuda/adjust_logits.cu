// adjust_logits: logit + bias, penalised where the row has counts. A block takes 2048 tokens of a row, 8 a thread;
// those of a row with a bias pass through shared memory, where it is added. Streams the logits, 4 bytes a logit of
// result, and 4 of counts if there are any. count_tokens: a thread per row.
#include "kernels/cuda/launch.h"
#include "kernels/dispatch.h"
#include "kernels/logit_adjustment.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

constexpr int kThreads = 256, kPerThread = 8, kTokens = kPerThread * kThreads;

template <typename T>
struct AdjustArgs {
  const T* logits;
  int64_t stride, rows, vocab;
  const int32_t* counts;
  const int64_t *count_rows, *bias_offsets, *bias_ids;
  const float *penalties, *bias_values;
  float* adjusted;
};

struct Penalties {
  float repetition, frequency, presence;
};

__device__ float Penalise(float logit, int32_t counted, const Penalties& p) {
  const int32_t times = counted & kTimesInCompletion;
  if (counted != 0) logit = logit > 0 ? logit / p.repetition : logit * p.repetition;
  const float often = __fmul_rn(static_cast<float>(times), p.frequency);  // rounded as ATen's: no fused operation
  return logit - __fadd_rn(often, times > 0 ? p.presence : 0.0F);
}

// Adds the bias of the tokens from `first` on to `logits`, of which a thread holds every kThreads-th pack of W.
template <typename T, int W>
__device__ void AddBias(const AdjustArgs<T>& a, int64_t begin, int64_t end, int64_t first,
                        Pack<float, W> (&logits)[kPerThread / W]) {
  __shared__ __align__(16) float block[kTokens];
  const auto at = [](int i) { return block + (i * kThreads + static_cast<int>(threadIdx.x)) * W; };
  for (int i = 0; i < kPerThread / W; ++i) Store(at(i), logits[i]);
  __syncthreads();
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const int64_t token = a.bias_ids[i] - first;
    if (token >= 0 && token < kTokens) atomicAdd(&block[token], a.bias_values[i]);
  }
  __syncthreads();
  for (int i = 0; i < kPerThread / W; ++i) logits[i] = Load<float, W>(at(i));
}

// The vocabulary is a multiple of W, and every row begins on a border of W elements.
template <typename T, int W>
__global__ void adjust_logits_kernel(AdjustArgs<T> a) {
  constexpr int kPacks = kPerThread / W;
  AllowNext();
  AwaitPrevious();
  const int64_t row = blockIdx.y, first = int64_t{blockIdx.x} * kTokens;
  const auto token = [first](int i) { return first + (i * kThreads + static_cast<int>(threadIdx.x)) * W; };
  Pack<float, W> logits[kPacks];
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    if (token(i) >= a.vocab) continue;
    const Pack<T, W> pack = Load<T, W>(a.logits + row * a.stride + token(i));
    for (int j = 0; j < W; ++j) logits[i][j] = static_cast<float>(pack[j]);
  }
  const int64_t begin = a.bias_offsets[row], end = a.bias_offsets[row + 1], count_row = a.count_rows[row];
  if (begin < end) AddBias<T, W>(a, begin, end, first, logits);
  const Penalties penalties = {a.penalties[row], a.penalties[a.rows + row], a.penalties[2 * a.rows + row]};
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    if (token(i) >= a.vocab) continue;
    if (count_row >= 0) {
      const Pack<int32_t, W> counts = Load<int32_t, W>(a.counts + count_row * a.vocab + token(i));
      for (int j = 0; j < W; ++j) logits[i][j] = Penalise(logits[i][j], counts[j], penalties);
    }
    Store(a.adjusted + row * a.vocab + token(i), logits[i]);
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
    constexpr int kWide = 4;
    const dim3 grid(static_cast<unsigned>((vocab + kTokens - 1) / kTokens), static_cast<unsigned>(rows));
    const bool wide = Aligned16(dense.const_data_ptr<T>(), counts.const_data_ptr<int32_t>()) &&
                      (vocab | dense.stride(0)) % kWide == 0;
    Launch(wide ? adjust_logits_kernel<T, kWide> : adjust_logits_kernel<T, 1>, grid, kThreads, 0,
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
