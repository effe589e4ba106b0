// Sums, weighted sums or maxima over the rows of each item, in float32; then divided, cut and scaled to length 1.
// A block takes an item, a thread every blockDim-th group of W columns, of which it reads all rows. Streams hidden
// once; the second pass over an item's vector comes from the nearest cache.
#include "kernels/cuda/launch.h"
#include "kernels/dispatch.h"
#include "kernels/eager/eager.h"
#include "kernels/op_samples.h"
#include "kernels/pool_rows.h"
#include "kernels/registry.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

constexpr int kMostThreads = 512;

// NaN wins.
__device__ float Larger(float a, float b) { return b > a || b != b ? b : a; }

__device__ float Divisor(const PoolItem& item) {
  const auto n = static_cast<float>(item.position + item.num_rows);
  if (item.last == 0) return 1.0f;
  if (item.kind == PoolKind::kMean) return n;
  if (item.kind == PoolKind::kMeanSqrtLen) return sqrtf(n);
  return item.kind == PoolKind::kWeightedMean ? n * ((n + 1.0f) / 2.0f) : 1.0f;
}

// Of the item's rows, at the W columns from x on.
template <typename T, int W>
__device__ Pack<float, W> Reduce(const PoolItem& item, const T* x, int64_t stride) {
  const bool most = item.kind == PoolKind::kMax;
  const bool pick = item.kind == PoolKind::kFirst || item.kind == PoolKind::kLast;
  if (item.kind == PoolKind::kLast) x += (item.num_rows - 1) * stride;
  const float step = item.kind == PoolKind::kWeightedMean ? 1.0f : 0.0f;
  const float first = 1.0f + step * static_cast<float>(item.position);
  const Pack<T, W> begin = Load<T, W>(x);
  Pack<float, W> value;
  for (int j = 0; j < W; ++j) value[j] = static_cast<float>(begin[j]) * (most || pick ? 1.0f : first);
  if (pick) return value;
#pragma unroll 8
  for (int64_t row = 1; row < item.num_rows; ++row) {
    const Pack<T, W> next = Load<T, W>(x + row * stride);
    const float weight = first + step * static_cast<float>(row);
    for (int j = 0; j < W; ++j) {
      const auto number = static_cast<float>(next[j]);
      value[j] = most ? Larger(value[j], number) : fmaf(number, weight, value[j]);
    }
  }
  return value;
}

template <int W>
__device__ Pack<float, W> Join(PoolKind kind, const Pack<float, W>& before, const Pack<float, W>& value) {
  if (kind == PoolKind::kFirst) return before;
  if (kind == PoolKind::kLast) return value;
  Pack<float, W> joined;
  for (int j = 0; j < W; ++j) joined[j] = kind == PoolKind::kMax ? Larger(before[j], value[j]) : before[j] + value[j];
  return joined;
}

// The sum of `value` over the block, given to every thread.
__device__ float BlockSum(float value) {
  __shared__ float warps[kMostThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffU, value, offset);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += warps[warp];
  return total;
}

// The width is a multiple of W, and every row begins on a border of W elements.
template <typename T, int W>
__global__ void pool_rows_kernel(PoolArgs<T> a) {
  AllowNext();
  AwaitPrevious();
  const PoolItem item = a.items[blockIdx.x];
  const T* x = a.hidden + item.first_row * a.stride;
  float* vector = a.vectors + static_cast<int64_t>(blockIdx.x) * a.width;
  float* kept = item.partial >= 0 ? a.partial + item.partial * a.width : nullptr;
  const float divisor = Divisor(item);
  const int64_t end = item.last != 0 && item.dimensions > 0 ? item.dimensions : a.width;
  const int64_t step = static_cast<int64_t>(blockDim.x) * W;
  float squares = 0;
  for (int64_t i = threadIdx.x * W; i < a.width; i += step) {
    Pack<float, W> value = Reduce<T, W>(item, x + i, a.stride);
    if (kept != nullptr) {
      if (item.position > 0) value = Join<W>(item.kind, Load<float, W>(kept + i), value);
      Store(kept + i, value);
    }
    for (int j = 0; j < W; ++j) {
      value[j] = i + j < end ? value[j] / divisor : 0.0f;
      squares += value[j] * value[j];
    }
    Store(vector + i, value);
  }
  if (item.last == 0 || item.normalize == 0) return;
  const float length = sqrtf(BlockSum(squares));
  const float scale = length < 1e-12f ? 1e-12f : length;
  for (int64_t i = threadIdx.x * W; i < a.width; i += step) {
    Pack<float, W> value = Load<float, W>(vector + i);  // a thread reads what it wrote itself
    for (int j = 0; j < W; ++j) value[j] /= scale;
    Store(vector + i, value);
  }
}

template <typename T>
void LaunchPool(const PoolArgs<T>& a, int64_t num_items) {
  constexpr int kWide = 4;
  const bool wide = Aligned16(a.hidden, a.partial, a.vectors) && (a.width | a.stride) % kWide == 0;
  const int64_t groups = wide ? a.width / kWide : a.width;
  const auto threads = static_cast<unsigned>(std::min<int64_t>((groups + 31) / 32 * 32, kMostThreads));
  Launch(wide ? pool_rows_kernel<T, kWide> : pool_rows_kernel<T, 1>, static_cast<unsigned>(num_items), threads, 0, a);
}

at::Tensor PoolRows(const at::Tensor& hidden, const at::Tensor& items, const std::optional<at::Tensor>& partial) {
  CheckShape("pool_rows: items", items, {items.size(0), kPoolItemSize});
  CheckType("pool_rows: items", items, at::kLong);
  const int64_t num_items = items.size(0), width = hidden.size(1);
  const at::Tensor dense = DenseRows(hidden), table = items.contiguous();
  at::Tensor vectors = at::empty({num_items, width}, hidden.options().dtype(at::kFloat));
  if (vectors.numel() == 0) return vectors;
  float* kept = nullptr;
  if (IsDefined(partial)) {
    CheckShape("pool_rows: partial", *partial, {partial->size(0), width});
    TORCH_CHECK(partial->is_contiguous(), "pool_rows: partial is not contiguous");
    kept = partial->mutable_data_ptr<float>();
  }
  const c10::DeviceGuard guard(hidden.device());
  DispatchFloats("pool_rows", hidden, [&](auto zero) {
    using T = decltype(zero);
    LaunchPool<T>({.hidden = dense.const_data_ptr<T>(),
                   .items = reinterpret_cast<const PoolItem*>(table.const_data_ptr<int64_t>()),
                   .partial = kept,
                   .vectors = vectors.mutable_data_ptr<float>(),
                   .stride = dense.stride(0),
                   .width = width},
                  num_items);
  });
  return vectors;
}

const bool registered = RegisterKernel(&Ops::pool_rows, at::kCUDA, FusedDtypes(), PoolRows, PoolRowsSamples);

}  // namespace
}  // namespace automodeld
