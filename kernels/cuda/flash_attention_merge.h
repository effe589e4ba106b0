// How decode's sums over some keys become rows: those of a block's warps are added up in shared memory, those of a
// cluster's blocks in the first one's, those of clusters in global memory by the last one to come. One warp for each
// scheduler has nothing to hide its latencies behind, so few instructions count.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_MERGE_H_
#define KERNELS_CUDA_FLASH_ATTENTION_MERGE_H_

#include "kernels/cuda/cluster.h"
#include "kernels/cuda/flash_attention_rows.h"

namespace automodeld {

// Over some of a row's keys: sums of weights, and of values by them in four columns, relative to 2^largest.
struct FlashSums {
  float largest = -INFINITY, weights = 0.0f;
  float4 columns = {};
};

// In memory a row of sums is its `dim` columns, then the largest score and the sum of weights, then two unused.
__device__ inline FlashSums LoadSums(const float* row, int column, int dim) {
  const float2 pair = *reinterpret_cast<const float2*>(row + dim);
  return {.largest = pair.x, .weights = pair.y, .columns = *reinterpret_cast<const float4*>(row + column)};
}
__device__ inline void StoreSums(float* row, int column, int dim, const FlashSums& sums) {
  *reinterpret_cast<float4*>(row + column) = sums.columns;
  if (column == 0) *reinterpret_cast<float2*>(row + dim) = {sums.largest, sums.weights};
}

template <int N>
__device__ FlashSums AddUp(const FlashSums (&parts)[N]) {
  FlashSums total;
#pragma unroll
  for (const FlashSums& part : parts) total.largest = fmaxf(total.largest, part.largest);
  const float reference = total.largest == -INFINITY ? 0.0f : total.largest;  // no keys at all: all weights are 0
#pragma unroll
  for (const FlashSums& part : parts) {
    const float weight = Exp2(part.largest - reference);
    total.weights += weight * part.weights;
    total.columns.x += weight * part.columns.x;
    total.columns.y += weight * part.columns.y;
    total.columns.z += weight * part.columns.z;
    total.columns.w += weight * part.columns.w;
  }
  return total;
}

// load(first) to load(first + N - 1), those from `count` on without keys.
template <int N, typename Load>
__device__ void LoadParts(FlashSums* to, int first, int count, Load load) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    to[i] = load(min(first + i, count - 1));
    if (first + i >= count) to[i].largest = -INFINITY;
  }
}

// A warp's sums over its keys, of the block's rows: [16][width].
template <typename Tile>
__device__ void LeaveSums(const FlashBlock& b, const FlashRowsOfWarp<Tile>& rows, float* to) {
  const int quarter = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float* row = to + rows.Row(i) * Tile::kSumsWidth;
    if (rows.Row(i) >= b.rows) continue;
#pragma unroll
    for (int n = 0; n < Tile::kDim / 8; ++n) {
      *reinterpret_cast<float2*>(row + rows.Column(n)) = rows.Columns(i, n);
    }
    if (quarter == 0) *reinterpret_cast<float2*>(row + Tile::kDim) = {rows.Largest(i), rows.SumOfWeights(i)};
  }
}

// do_columns(row, column) for every four columns that are this thread's.
template <typename Tile, typename Do>
__device__ void ForMyColumns(const FlashArgs& a, const FlashBlock& b, Do do_columns) {
  constexpr int kPieces = Tile::kDim / 4;
  for (int i = static_cast<int>(threadIdx.x); i < b.rows * kPieces; i += Tile::kThreads) {
    const int row = i / kPieces, column = i % kPieces * 4;
    if (column < a.head_dim) do_columns(row, column);
  }
}

// Four columns of the result.
template <typename Tile>
__device__ void StoreColumns(const FlashArgs& a, const FlashBlock& b, int row, int column, const FlashSums& sums) {
  using T = typename Tile::T;
  const FlashPlace place = PlaceOf<Tile>(a, b, row);
  const float factor = Normalizer(a, place.head, sums.largest, sums.weights);
  T* to = static_cast<T*>(a.out) + (place.token * a.heads + place.head) * a.head_dim + column;
  *reinterpret_cast<uint2*>(to) = {PackPair(T{}, sums.columns.x * factor, sums.columns.y * factor),
                                   PackPair(T{}, sums.columns.z * factor, sums.columns.w * factor)};
}

// Whether this block is the last of the unit's to have written a part; then it can read the others'.
__device__ inline bool IsLast(const FlashArgs& a, const FlashBlock& b) {
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t ticket = 0;  // the last one leaves zero for the next launch
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(ticket)
                 : "l"(a.tickets + b.unit), "r"(b.parts - 1)
                 : "memory");
    is_last = static_cast<int>(ticket) == b.parts - 1;
  }
  __syncthreads();
  return is_last;
}

// The unit's parts become its rows; always in their order, so that the bits do not depend on which came last.
template <typename Tile>
__device__ void StoreParts(const FlashArgs& a, const FlashBlock& b, const float* parts, int part_floats) {
  constexpr int kAtOnce = 8;
  ForMyColumns<Tile>(a, b, [&](int row, int column) {
    const float* mine = parts + row * (a.head_dim + 4);
    const auto load = [&](int part) { return LoadSums(mine + part * part_floats, column, a.head_dim); };
    FlashSums some[kAtOnce + 1];
    for (int first = 0; first < b.parts; first += kAtOnce) {
      LoadParts<kAtOnce>(some, first, b.parts, load);
      some[kAtOnce] = AddUp(some);
    }
    StoreColumns<Tile>(a, b, row, column, some[kAtOnce]);
  });
}

// sums: the block's rows of sums, [16][kSumsWidth]. The cluster's become rows or, where there are other clusters with
// keys, a part.
template <typename Tile>
__device__ void StoreCluster(const FlashArgs& a, const FlashBlock& b, float* sums) {
  const int width = a.head_dim + 4, part_floats = min(a.group, Tile::kRows) * width;
  float* parts = a.parts + int64_t{b.unit} * (a.splits / a.cluster) * part_floats;
  ForMyColumns<Tile>(a, b, [&](int row, int column) {
    FlashSums blocks[kMaxFlashCluster];
    LoadParts<kMaxFlashCluster>(blocks, 0, b.blocks, [&](int rank) {
      return LoadSums(Peer(sums, static_cast<uint32_t>(rank)) + row * Tile::kSumsWidth, column, Tile::kDim);
    });
    const FlashSums total = AddUp(blocks);
    if (b.parts == 1)
      StoreColumns<Tile>(a, b, row, column, total);
    else
      StoreSums(parts + b.part * part_floats + row * width, column, a.head_dim, total);
  });
  if (b.parts > 1 && IsLast(a, b)) StoreParts<Tile>(a, b, parts, part_floats);
}

// shared: the teams' stages
template <typename Tile>
__device__ void StoreMerged(const FlashArgs& a, const FlashBlock& b, const FlashRowsOfWarp<Tile>& rows, char* shared) {
  constexpr int kWidth = Tile::kSumsWidth;
  const auto of_warp = [&](int warp) { return reinterpret_cast<float*>(shared + warp * Tile::kTeamBytes); };
  __syncwarp();  // all lanes have read its last tile
  LeaveSums<Tile>(b, rows, of_warp(static_cast<int>(threadIdx.x) / 32));
  __syncthreads();
  const bool alone = b.parts * b.blocks == 1;
  float* of_block = of_warp(0) + 16 * kWidth;
  ForMyColumns<Tile>(a, b, [&](int row, int column) {
    FlashSums warps[Tile::kWarps];
#pragma unroll
    for (int i = 0; i < Tile::kWarps; ++i) warps[i] = LoadSums(of_warp(i) + row * kWidth, column, Tile::kDim);
    const FlashSums total = AddUp(warps);
    if (alone)
      StoreColumns<Tile>(a, b, row, column, total);
    else
      StoreSums(of_block + row * kWidth, column, Tile::kDim, total);
  });
  if (alone) return;
  b.blocks > 1 ? ClusterSync() : __syncthreads();
  if (b.rank == 0) StoreCluster<Tile>(a, b, of_block);
  if (b.blocks > 1) ClusterEnd();  // the first block has read the others' sums
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_MERGE_H_
