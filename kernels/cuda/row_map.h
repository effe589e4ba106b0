// y = f(x) row by row, element by element, quantised if asked (kernels/cuda/row_quantize.h): what act_mul and
// QuantizeRows share.
//
//   const MappedRows out = MapRows(Gated{...}, rows, width, aligned, options, quantize);
//
// A Source is what a kernel reads and f:
//   using Type = at::BFloat16;                                      // of y
//   template <int W> using Raw = ...;                               // W elements as they are read
//   template <int W> __device__ Raw<W> Fetch(int64_t row, int i) const;     // of columns [i, i + W)
//   template <int W> __device__ Pack<Type, W> Of(const Raw<W>& raw) const;  // f
// A block, or for few wide rows a cluster of eight, takes a row and keeps y in registers; rows off borders of 16 bytes
// are computed twice where they are quantised.
#ifndef KERNELS_CUDA_ROW_MAP_H_
#define KERNELS_CUDA_ROW_MAP_H_

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>

#include <algorithm>

#include "kernels/cuda/cluster.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_quantize.h"
#include "kernels/cuda/row_reduce.h"

namespace automodeld {

inline constexpr int kCluster = 8;             // blocks that share a row
inline constexpr int kMapElements = 32;        // of a thread that shares its row with one block
inline constexpr int kMapThreads = 512;        // the most of a block that has a row for itself
inline constexpr int kClusterThreads = 1024;   // the most of one that shares it
inline constexpr int64_t kMostClusters = 128;  // rows up to which they are shared: a wave of blocks
inline constexpr int64_t kMostNarrow = 512;    // quantised rows up to which a thread of a block has one pack

template <typename T>
struct RowMapTo {
  T* y;  // null where values and scale are not
  uint8_t* values;
  float* scale;
  int width;
};

// The largest over the cluster's blocks, all of which have passed ClusterStart; `found`: shared, a word for each, which
// `there` expects.
template <int C>
__device__ float ClusterMax(float largest, float* found, uint64_t* there) {
  ClusterWait();
  if (threadIdx.x < C) StoreAt(&found[ClusterRank()], largest, there, threadIdx.x);
  AwaitStores(there);
  for (int i = 0; i < C; ++i) largest = Larger(largest, found[i]);
  return largest;
}

// The width is a multiple of W, Fetch may read W at a time, and the row's C blocks have N packs of W elements a thread.
template <typename Source, int W, int N, int C>
__global__ void __launch_bounds__(C > 1 ? kClusterThreads : kMapThreads)
    map_rows_kernel(const Source source, const RowMapTo<typename Source::Type> to) {
  __shared__ float maxima[kMaxWarps];
  __shared__ float found[kCluster];
  __shared__ uint64_t there;
  AllowNext();
  if (C > 1 && to.y == nullptr) {
    if (threadIdx.x == 0) ExpectStores(&there, sizeof(found));
    ClusterStart();
  }
  AwaitPrevious();
  const int64_t row = blockIdx.x / C;
  const unsigned rank = blockIdx.x % C;
  typename Source::template Raw<W> raw[N];
  Pack<typename Source::Type, W> y[N];
  const auto begin = [&](int n) { return static_cast<int>((n * C + rank) * blockDim.x + threadIdx.x) * W; };
#pragma unroll
  for (int n = 0; n < N; ++n) {
    if (begin(n) < to.width) raw[n] = source.template Fetch<W>(row, begin(n));
  }
  float largest = 0;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    if (begin(n) >= to.width) continue;
    y[n] = source.template Of<W>(raw[n]);
#pragma unroll
    for (int j = 0; j < W; ++j) largest = Larger(largest, y[n][j]);
  }
  if (to.y != nullptr) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (begin(n) < to.width) Store(to.y + row * to.width + begin(n), y[n]);
    }
    return;
  }
  largest = BlockMax(largest, maxima);
  if constexpr (C > 1) largest = ClusterMax<C>(largest, found, &there);
  const RowScale scale(largest);
#pragma unroll
  for (int n = 0; n < N; ++n) {
    if (begin(n) < to.width) Store(to.values + row * to.width + begin(n), scale.Quantized(y[n]));
  }
  if (rank == 0 && threadIdx.x == 0) to.scale[row] = scale.scale();
}

// Of any width and alignment.
template <typename Source>
__global__ void __launch_bounds__(kMapThreads)
    map_any_rows_kernel(const Source source, const RowMapTo<typename Source::Type> to) {
  __shared__ float maxima[kMaxWarps];
  AllowNext();
  AwaitPrevious();
  const int64_t row = blockIdx.x;
  const auto for_each = [&](auto visit) {
    for (int i = static_cast<int>(threadIdx.x); i < to.width; i += static_cast<int>(blockDim.x)) {
      visit(i, source.template Of<1>(source.template Fetch<1>(row, i))[0]);
    }
  };
  if (to.y != nullptr) return for_each([&](int i, auto y) { to.y[row * to.width + i] = y; });
  float largest = 0;
  for_each([&](int, auto y) { largest = Larger(largest, y); });
  const RowScale scale(BlockMax(largest, maxima));
  for_each([&](int i, auto y) { to.values[row * to.width + i] = scale.Quantized(Pack<decltype(y), 1>{y})[0]; });
  if (threadIdx.x == 0) to.scale[row] = scale.scale();
}

inline unsigned WholeWarps(int64_t threads) { return static_cast<unsigned>((threads + kWarp - 1) / kWarp * kWarp); }

template <typename Source>
void LaunchMap(const Source& source, const RowMapTo<typename Source::Type>& to, int64_t rows, bool aligned) {
  constexpr int W = 16 / sizeof(typename Source::Type), N = kMapElements / W;
  const int64_t packs = to.width / W, of_block = (packs + kCluster - 1) / kCluster;
  const bool clusters = HasHopperLaunches() || to.y != nullptr;
  const bool wide = packs > N * kMapThreads;
  if (!aligned || to.width % W != 0 || of_block > kClusterThreads || (wide && !clusters)) {
    return Launch(map_any_rows_kernel<Source>, static_cast<unsigned>(rows), kMapThreads, 0, source, to);
  }
  if (to.y == nullptr && packs <= kMapThreads && rows <= kMostNarrow) {
    return Launch(map_rows_kernel<Source, W, 1, 1>, static_cast<unsigned>(rows), WholeWarps(packs), 0, source, to);
  }
  if (clusters && (wide || rows <= kMostClusters)) {
    const auto kernel = map_rows_kernel<Source, W, 1, kCluster>;
    const dim3 grid(static_cast<unsigned>(rows * kCluster)), block(WholeWarps(of_block));
    if (to.y != nullptr) return Launch(kernel, grid, block, 0, source, to);
    return LaunchClusters(kernel, kCluster, grid, block, 0, source, to);
  }
  Launch(map_rows_kernel<Source, W, N, 1>, static_cast<unsigned>(rows), WholeWarps((packs + N - 1) / N), 0, source, to);
}

// y [rows, width], and its scale (undefined unless quantised).
struct MappedRows {
  at::Tensor y, scale;
};

// Neither dimension is 0. aligned: every row begins on a border of 16 bytes. options: of y, unless it is quantised.
template <typename Source>
MappedRows MapRows(const Source& source, int64_t rows, int64_t width, bool aligned, const at::TensorOptions& options,
                   bool quantize) {
  TORCH_CHECK(rows <= INT32_MAX / kCluster && width <= INT32_MAX, "cannot map ", rows, " rows of ", width);
  MappedRows out{.y = at::empty({rows, width}, quantize ? options.dtype(at::kFloat8_e4m3fn) : options), .scale = {}};
  if (quantize) out.scale = at::empty({rows, 1}, options.dtype(at::kFloat));
  using T = typename Source::Type;
  const RowMapTo<T> to{.y = quantize ? nullptr : out.y.mutable_data_ptr<T>(),
                       .values = quantize ? static_cast<uint8_t*>(out.y.mutable_data_ptr()) : nullptr,
                       .scale = quantize ? out.scale.mutable_data_ptr<float>() : nullptr,
                       .width = static_cast<int>(width)};
  LaunchMap(source, to, rows, aligned);
  return out;
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_ROW_MAP_H_
