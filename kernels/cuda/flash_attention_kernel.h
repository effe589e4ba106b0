// softmax(scale * q k^T) v over pages, by online softmax as in FlashAttention-2 (Dao, 2023), split over keys as in
// Flash-Decoding. Each key and value is read once per tile of packed rows: for decode as often as there are key heads,
// whatever the group. Included by one .cu file per head size.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_KERNEL_H_
#define KERNELS_CUDA_FLASH_ATTENTION_KERNEL_H_

#include "kernels/cuda/flash_attention_rows.h"
#include "kernels/cuda/launch.h"

namespace automodeld {

template <typename Tile>
__device__ FlashBlock ThisBlock(const FlashArgs& a) {
  const int split = static_cast<int>(blockIdx.x) % a.splits, rest = static_cast<int>(blockIdx.x) / a.splits;
  const int item = rest / a.kv_heads, tiles = DivideUp(a.group, Tile::kRows);
  const FlashItem it =
      a.items != nullptr ? a.items[item] : FlashItem{item / tiles, item % tiles * Tile::kRows};  // decode
  FlashBlock b{.s = a.sequences[it.sequence], .kv_head = rest % a.kv_heads, .split = split, .first = it.first};
  b.rows = min(Tile::kRows, b.s.num_rows * a.group - it.first);
  const int before = b.s.context - b.s.num_rows;
  b.begin = FirstKey(before + it.first / a.group, a.window);
  b.end = a.causal ? before + (it.first + b.rows - 1) / a.group + 1 : b.s.context;
  if (b.rows <= 0) b.end = b.begin;  // an item of padding
  if (a.splits > 1) {
    const int length = SplitLength(b.begin, b.end, a.splits, kFlashSplitUnit);
    b.begin = min(b.end, b.begin + split * length);
    b.end = min(b.end, b.begin + length);
  }
  return b;
}

// A packed row's place among the step's rows, and its head.
struct FlashPlace {
  int64_t token;
  int head;
};
__device__ inline FlashPlace PlaceOf(const FlashArgs& a, const FlashBlock& b, int row) {
  const int packed = b.first + row, token = packed / a.group;
  return {int64_t{b.s.first_row} + token, b.kv_head * a.group + packed - token * a.group};
}

// to: [kRows][kStride], zeros where there is no row or column
template <typename Tile>
__device__ void LoadQueries(const FlashArgs& a, const FlashBlock& b, typename Tile::T* to) {
  constexpr int kPieces = Tile::kDim / 8;
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kRows * kPieces; i += Tile::kThreads) {
    const int row = i / kPieces, column = i % kPieces * 8;
    uint4 piece{};
    if (row < b.rows && column < a.head_dim) {
      const FlashPlace place = PlaceOf(a, b, row);
      const auto* from = static_cast<const typename Tile::T*>(a.q) + place.token * a.q_stride + place.head * a.head_dim;
      piece = *reinterpret_cast<const uint4*>(from + column);
    }
    *reinterpret_cast<uint4*>(to + row * Tile::kStride + column) = piece;
  }
}

// 1 / the sum of weights, the sink's among them, times what values are multiplied with; 0 for a row that sees nothing.
__device__ inline float Normalizer(const FlashArgs& a, int head, float largest, float sum) {
  if (a.sinks != nullptr) sum += Exp2(fminf(a.sinks[head] * 1.4426950408889634f - largest, 126.0f));
  return sum > 0.0f ? a.result_factor / sum : 0.0f;
}

template <typename Tile>
__device__ void StoreRows(const FlashArgs& a, const FlashBlock& b, const FlashRowsOfWarp<Tile>& rows, int first_row) {
  using T = typename Tile::T;
#pragma unroll
  for (int i = 0; i < FlashRowsOfWarp<Tile>::kSlots; ++i) {
    const int row = first_row + rows.Row(i);
    if (row >= b.rows) continue;
    const FlashPlace place = PlaceOf(a, b, row);
    const float factor = Normalizer(a, place.head, rows.Largest(i), rows.SumOfWeights(i));
    T* to = static_cast<T*>(a.out) + (place.token * a.heads + place.head) * a.head_dim;
#pragma unroll
    for (int n = 0; n < Tile::kDim / 8; ++n) {
      const int column = n * 8 + static_cast<int>(threadIdx.x) % 4 * 2;
      const float2 x = rows.Columns(i, n);
      if (column < a.head_dim) *reinterpret_cast<uint32_t*>(to + column) = PackPair(T{}, x.x * factor, x.y * factor);
    }
  }
}

// The warps' sums of one row over their keys become one, of the block's keys.
template <typename Tile>
__device__ void StoreMerged(const FlashArgs& a, const FlashBlock& b, const FlashRowsOfWarp<Tile>& rows, float* shared) {
  using T = typename Tile::T;
  constexpr int kWidth = Tile::kDim + 2, kPieces = Tile::kDim / 2;  // sums, then the largest score and the weights
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float* to = shared + (warp * 16 + rows.Row(i)) * kWidth;
    if (rows.Row(i) >= b.rows) continue;
#pragma unroll
    for (int n = 0; n < Tile::kDim / 8; ++n) {
      *reinterpret_cast<float2*>(to + n * 8 + thread % 4 * 2) = rows.Columns(i, n);
    }
    if (thread % 4 == 0) *reinterpret_cast<float2*>(to + Tile::kDim) = {rows.Largest(i), rows.SumOfWeights(i)};
  }
  __syncthreads();
  for (int i = thread; i < b.rows * kPieces; i += Tile::kThreads) {
    const int row = i / kPieces, column = i % kPieces * 2;
    float2 parts[Tile::kWarps];
    float largest = -INFINITY;
#pragma unroll
    for (int w = 0; w < Tile::kWarps; ++w) {
      parts[w] = *reinterpret_cast<const float2*>(shared + (w * 16 + row) * kWidth + Tile::kDim);
      largest = fmaxf(largest, parts[w].x);
    }
    float sum = 0.0f;
    float2 x{};
#pragma unroll
    for (int w = 0; w < Tile::kWarps; ++w) {
      if (parts[w].x == -INFINITY) continue;  // had no keys
      const float weight = Exp2(parts[w].x - largest);
      const float2 part = *reinterpret_cast<const float2*>(shared + (w * 16 + row) * kWidth + column);
      sum += weight * parts[w].y;
      x.x += weight * part.x;
      x.y += weight * part.y;
    }
    if (column >= a.head_dim) continue;
    const FlashPlace place = PlaceOf(a, b, row);
    if (a.splits == 1) {
      const float factor = Normalizer(a, place.head, largest, sum);
      T* to = static_cast<T*>(a.out) + (place.token * a.heads + place.head) * a.head_dim;
      *reinterpret_cast<uint32_t*>(to + column) = PackPair(T{}, x.x * factor, x.y * factor);
      continue;
    }
    const int64_t sequence = blockIdx.x / static_cast<unsigned>(a.splits * a.kv_heads * DivideUp(a.group, 16));
    const int64_t part = (sequence * a.splits + b.split) * a.heads + place.head;
    *reinterpret_cast<float2*>(a.partial + part * a.head_dim + column) = x;
    if (column == 0) *reinterpret_cast<float2*>(a.partial_sum + part * 2) = {largest, sum};
  }
}

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocksPerSm)
    flash_attention_kernel(const __grid_constant__ FlashArgs a) {
  using T = typename Tile::T;
  extern __shared__ __align__(16) char shared[];
  AllowNext();
  const FlashBlock b = ThisBlock<Tile>(a);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  FlashKeys<Tile> keys(a, b, shared + Tile::kRowBytes, thread / Tile::kTeam, thread % Tile::kTeam);
  // Keys that earlier steps wrote need not wait for the kernel before.
  const int ahead = min(keys.tiles(), Tile::kStages - 1);
  const bool early =
      Tile::kOwnKeys && ahead > 0 && keys.FirstKeyOf(ahead - 1) + Tile::kKeys <= b.s.context - a.fresh_keys;
  if (!early) AwaitPrevious();
  for (int t = 0; t < Tile::kStages - 1; ++t) keys.Start(t);
  if (early) AwaitPrevious();
  if (b.begin >= b.end) return;
  LoadQueries<Tile>(a, b, reinterpret_cast<T*>(shared));
  __syncthreads();
  const int first_row = Tile::kOwnKeys ? 0 : warp * 16 * Tile::kRowTiles;
  FlashRowsOfWarp<Tile> rows(a, b, reinterpret_cast<const T*>(shared), first_row);
  const auto meet = [] {
    if constexpr (Tile::kOwnKeys)
      __syncwarp();
    else
      __syncthreads();
  };
  for (int t = 0; t < keys.tiles(); ++t) {
    AwaitCopies<Tile::kStages - 2>();
    meet();
    keys.Start(t + Tile::kStages - 1);
    if constexpr (Tile::kConvert) {
      keys.ConvertTile(t);
      meet();
    }
    rows.Add(keys.Keys(t), keys.Values(t), keys.FirstKeyOf(t));
  }
  rows.Finish();
  if constexpr (Tile::kOwnKeys) {
    __syncthreads();  // all have read their last tile
    StoreMerged<Tile>(a, b, rows, reinterpret_cast<float*>(shared + Tile::kRowBytes));
  } else {
    StoreRows<Tile>(a, b, rows, first_row);
  }
}

template <typename Tile>
void LaunchTile(const FlashArgs& args) {
  constexpr auto kernel = flash_attention_kernel<Tile>;
  C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tile::kSharedBytes));
  const auto blocks = static_cast<unsigned>(int64_t{args.num_items} * args.kv_heads * args.splits);
  Launch(kernel, blocks, Tile::kThreads, Tile::kSharedBytes, args);
}

template <typename T, bool Convert, int Dim>
void LaunchKind(FlashKind kind, const FlashArgs& args) {
  switch (kind) {
    case FlashKind::kDecode:
      return LaunchTile<FlashTile<T, Convert, Dim, FlashKind::kDecode>>(args);
    case FlashKind::kSmall:
      return LaunchTile<FlashTile<T, Convert, Dim, FlashKind::kSmall>>(args);
    case FlashKind::kLarge:
      return LaunchTile<FlashTile<T, Convert, Dim, FlashKind::kLarge>>(args);
  }
}

template <int Dim>
void LaunchFlash(FlashKind kind, bool bfloat16, bool convert, const FlashArgs& args) {
  if (bfloat16)
    convert ? LaunchKind<__nv_bfloat16, true, Dim>(kind, args) : LaunchKind<__nv_bfloat16, false, Dim>(kind, args);
  else
    convert ? LaunchKind<__half, true, Dim>(kind, args) : LaunchKind<__half, false, Dim>(kind, args);
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_KERNEL_H_
