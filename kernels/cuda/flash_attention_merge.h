// How decode's sums over some keys become rows: those of a block's warps are added up in shared memory, those of a
// cluster's blocks each in part by each, those of clusters in global memory by the last block to come. One warp for
// each scheduler has nothing to hide its latencies behind, so few instructions count.
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

// do_piece(i) for those of [0, count) that are this thread's.
template <typename Tile, typename Do>
__device__ void ForMyPieces(int count, Do do_piece) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += Tile::kThreads) do_piece(i);
}

// Four columns of the result.
template <typename Tile>
__device__ void StoreColumns(const FlashArgs& a, const FlashBlock& b, int row, int column, const FlashSums& sums) {
  using T = typename Tile::T;
  const FlashPlace place = PlaceOf<Tile>(a, b, row);
  const float factor = Normalizer(a, place.head, sums.largest, sums.weights);
  T* to = static_cast<T*>(a.out) + (place.token * a.heads + place.head) * a.head_dim + column;
  const float4& x = sums.columns;
  StoreFour(to, {x.x * factor, x.y * factor, x.z * factor, x.w * factor});
}

// Whether this block is the last of the unit's to have written of a part; then it can read the others'.
__device__ inline bool IsLast(const FlashArgs& a, const FlashBlock& b) {
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t ticket = 0;  // the last one leaves zero for the next launch
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(ticket)
                 : "l"(a.tickets + b.unit), "r"(b.all - 1)
                 : "memory");
    is_last = static_cast<int>(ticket) == b.all - 1;
  }
  __syncthreads();
  return is_last;
}

// The unit's parts become its rows; always in their order, so that the bits do not depend on which came last.
template <typename Tile>
__device__ void StoreParts(const FlashArgs& a, const FlashBlock& b, const float* parts, int part_floats) {
  constexpr int kAtOnce = 8, kPieces = Tile::kDim / 4;
  ForMyPieces<Tile>(b.rows * kPieces, [&](int piece) {
    const int row = piece / kPieces, column = piece % kPieces * 4;
    if (column >= a.head_dim) return;
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

// Where the sums of the block's warps lie, each at the begin of the stages of its team, and behind those what the
// blocks of a cluster send each other. A piece is four columns of a row; each block adds up some, of all blocks.
template <typename Tile>
struct FlashMerge {
  static constexpr int kPieces = Tile::kDim / 4;  // of a row
  static constexpr int kSumsBytes = 16 * Tile::kSumsWidth * 4;
  static_assert(kSumsBytes + (16 * kPieces + kMaxFlashCluster) * sizeof(float4) <= Tile::kTeamBytes);

  char* stages;      // the teams'
  uint64_t* there;   // whether all have sent theirs
  int pieces, each;  // of the block's rows; of a block

  __device__ FlashMerge(const FlashBlock& b, char* memory, uint64_t* barrier)
      : stages(memory), there(barrier), pieces(b.rows * kPieces), each(DivideUp(pieces, b.blocks)) {}

  __device__ float* OfWarp(int warp) const { return reinterpret_cast<float*>(stages + warp * Tile::kTeamBytes); }
  __device__ int Begin(int rank) const { return min(rank * each, pieces); }
  __device__ float4* Columns(int from, int i) const {
    return reinterpret_cast<float4*>(stages + kSumsBytes) + from * each + i;
  }
  __device__ float2* LargestAndWeights(int from, int i) const {
    return reinterpret_cast<float2*>(stages + Tile::kTeamBytes + kSumsBytes) + from * each + i;
  }

  __device__ void Expect(const FlashBlock& b) const {
    const int mine = (Begin(b.rank + 1) - Begin(b.rank)) * b.blocks;
    ExpectStores(there, mine * static_cast<uint32_t>(sizeof(float4) + sizeof(float2)));
  }
  __device__ FlashSums OfWarps(int piece) const {
    FlashSums warps[Tile::kWarps];
#pragma unroll
    for (int i = 0; i < Tile::kWarps; ++i) {
      warps[i] = LoadSums(OfWarp(i) + piece / kPieces * Tile::kSumsWidth, piece % kPieces * 4, Tile::kDim);
    }
    return AddUp(warps);
  }
  __device__ void Send(const FlashBlock& b, int piece, const FlashSums& sums) const {
    const int to = piece / each, i = piece - to * each;
    StoreAt(Columns(b.rank, i), sums.columns, there, static_cast<uint32_t>(to));
    StoreAt(LargestAndWeights(b.rank, i), {sums.largest, sums.weights}, there, static_cast<uint32_t>(to));
  }
  // Of this block's piece i.
  __device__ FlashSums OfBlocks(const FlashBlock& b, int i) const {
    FlashSums blocks[kMaxFlashCluster];
    LoadParts<kMaxFlashCluster>(blocks, 0, b.blocks, [&](int from) {
      const float2 pair = *LargestAndWeights(from, i);
      return FlashSums{.largest = pair.x, .weights = pair.y, .columns = *Columns(from, i)};
    });
    return AddUp(blocks);
  }
};

// stages: the teams'
template <typename Tile>
__device__ void StoreMerged(const FlashArgs& a, const FlashBlock& b, const FlashRowsOfWarp<Tile>& rows, char* stages) {
  __shared__ uint64_t there;
  using Merge = FlashMerge<Tile>;
  const Merge merge(b, stages, &there);
  const int width = a.head_dim + 4, part_floats = min(a.group, Tile::kRows) * width;
  float* parts = a.parts + int64_t{b.unit} * (a.splits / a.cluster) * part_floats;
  const bool cluster = Tile::kSplits && b.blocks > 1, in_parts = Tile::kSplits && b.parts > 1;
  const auto store = [&](int piece, const FlashSums& sums) {
    const int row = piece / Merge::kPieces, column = piece % Merge::kPieces * 4;
    if (column >= a.head_dim) return;
    if (!in_parts)
      StoreColumns<Tile>(a, b, row, column, sums);
    else
      StoreSums(parts + b.part * part_floats + row * width, column, a.head_dim, sums);
  };
  const int thread = static_cast<int>(threadIdx.x);
  if (cluster && thread == 0) merge.Expect(b);
  __syncwarp();  // all lanes have read its last tile
  LeaveSums<Tile>(b, rows, merge.OfWarp(thread / 32));
  __syncthreads();
  if (cluster) ClusterMeet();  // all have read their stages
  ForMyPieces<Tile>(merge.pieces, [&](int piece) {
    const FlashSums sums = merge.OfWarps(piece);
    cluster ? merge.Send(b, piece, sums) : store(piece, sums);
  });
  if (cluster) {
    AwaitStores(&there);
    const int first = merge.Begin(b.rank);
    ForMyPieces<Tile>(merge.Begin(b.rank + 1) - first, [&](int i) { store(first + i, merge.OfBlocks(b, i)); });
  }
  if (in_parts && IsLast(a, b)) StoreParts<Tile>(a, b, parts, part_floats);
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_MERGE_H_
