// softmax(scale * q k^T) v over pages, by online softmax as in FlashAttention-2 (Dao, 2023), split over keys as in
// Flash-Decoding, though by one kernel: blocks of a cluster send each other their sums, clusters leave theirs in
// global memory, where the last block to come adds up. Each key and value is read once per tile of packed rows: for
// decode as often as there are key heads, whatever the group. Included by one .cu file per head size.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_KERNEL_H_
#define KERNELS_CUDA_FLASH_ATTENTION_KERNEL_H_

#include <climits>

#include "kernels/cuda/flash_attention_merge.h"
#include "kernels/cuda/flash_attention_raw.h"

namespace automodeld {

inline constexpr int kFlashSplitUnit = 64;  // keys: a tile for each warp
// Keys that each block of a cluster takes sooner than that there is a second cluster: its ticket costs about a
// microsecond, a tile of keys half of one.
inline constexpr int kFlashAlone = 128;

template <typename Tile>
__device__ FlashBlock ThisBlock(const FlashArgs& a) {
  const int split = static_cast<int>(blockIdx.x) % a.splits, unit = static_cast<int>(blockIdx.x) / a.splits;
  const int item = unit / a.kv_heads, tiles = DivideUp(a.group, Tile::kRows);
  const FlashItem it =
      a.items != nullptr ? a.items[item] : FlashItem{item / tiles, item % tiles * Tile::kRows};  // decode
  FlashBlock b{.s = a.sequences[it.sequence],
               .kv_head = unit % a.kv_heads,
               .unit = unit,
               .part = split / a.cluster,
               .parts = 1,
               .rank = split % a.cluster,
               .blocks = 1,
               .all = 1,
               .first = it.first};
  b.rows = min(Tile::kRows, b.s.num_rows * a.group - it.first);
  const int before = b.s.context - b.s.num_rows;
  b.begin = FirstKey(before + it.first / a.group, a.window);
  b.end = a.causal ? before + (it.first + b.rows - 1) / a.group + 1 : b.s.context;
  if (b.rows <= 0) b.end = b.begin;  // an item of padding
  if (Tile::kSplits && a.splits > 1) {
    const int keys = b.end - b.begin, blocks = keys <= a.cluster * kFlashAlone ? a.cluster : a.splits;
    const int length = DivideUp(DivideUp(keys, blocks), kFlashSplitUnit) * kFlashSplitUnit;
    b.all = DivideUp(keys, length);
    b.parts = DivideUp(b.all, a.cluster);
    b.blocks = min(a.cluster, b.all - b.part * a.cluster);
    b.begin = min(b.end, b.begin + split * length);
    b.end = min(b.end, b.begin + length);
  }
  return b;
}

// The block's queries on their way into shared memory, [kRows][kStride], with zeros where there is no row or column.
template <typename Tile>
class FlashQueries {
  using T = typename Tile::T;
  static constexpr int kPiece = 16 / static_cast<int>(sizeof(T)), kPieces = Tile::kDim / kPiece,
                       kTotal = Tile::kRows * kPieces;
  static constexpr int kRounds = (kTotal + Tile::kThreads - 1) / Tile::kThreads;

 public:
  // Says where they are: what can be worked out before they can be read. shared: the block's.
  __device__ FlashQueries(const FlashArgs& a, const FlashBlock& b, char* shared) : shared_(shared) {
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int piece = i * Tile::kThreads + static_cast<int>(threadIdx.x);
      const int row = piece / kPieces, column = piece % kPieces * kPiece;
      const FlashPlace place = PlaceOf<Tile>(a, b, row);
      const T* from = static_cast<const T*>(a.q) + place.token * a.q_stride + place.head * a.head_dim + column;
      from_[i] = row < b.rows && column < a.head_dim ? reinterpret_cast<const uint4*>(from) : nullptr;
    }
  }

  __device__ void Fetch() {
#pragma unroll
    for (int i = 0; i < kRounds; ++i) pieces_[i] = from_[i] != nullptr ? *from_[i] : uint4{};
  }

  __device__ void Store() const {
    auto* const to = reinterpret_cast<typename Tile::Product*>(shared_ + Tile::kRowsAt);
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int piece = i * Tile::kThreads + static_cast<int>(threadIdx.x);
      if (kTotal % Tile::kThreads != 0 && piece >= kTotal) break;
      Tile::Fragments::StoreQueries(T{}, to + piece / kPieces * Tile::kStride, piece % kPieces * kPiece, pieces_[i]);
    }
  }

 private:
  char* const shared_;
  const uint4* from_[kRounds];
  uint4 pieces_[kRounds];
};

template <typename Tile>
__device__ void StoreRows(const FlashArgs& a, const FlashBlock& b, const FlashRowsOfWarp<Tile>& rows, int first_row) {
  using T = typename Tile::T;
#pragma unroll
  for (int i = 0; i < FlashRowsOfWarp<Tile>::kSlots; ++i) {
    const int row = first_row + rows.Row(i);
    if (row >= b.rows) continue;
    const FlashPlace place = PlaceOf<Tile>(a, b, row);
    const float factor = Normalizer(a, place.head, rows.Largest(i), rows.SumOfWeights(i));
    T* to = static_cast<T*>(a.out) + (place.token * a.heads + place.head) * a.head_dim;
#pragma unroll
    for (int n = 0; n < Tile::kDim / 8; ++n) {
      const int column = rows.Column(n);
      const float2 x = rows.Columns(i, n);
      if (column < a.head_dim) StorePair(to + column, x.x * factor, x.y * factor);
    }
  }
}

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocksPerSm)
    flash_attention_kernel(const __grid_constant__ FlashArgs a) {
  extern __shared__ __align__(16) char shared[];
  AllowNext();
  const FlashBlock b = ThisBlock<Tile>(a);
  if (Tile::kSplits && b.rank >= b.blocks) return;  // a unit's first block awaits the kernel before for all
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  FlashKeys<Tile> keys(a, b, shared + Tile::kTeamsAt, thread / Tile::kTeam, thread % Tile::kTeam);
  const int first_row = Tile::kOwnKeys ? 0 : warp * 16 * Tile::kRowTiles;
  FlashRowsOfWarp<Tile> rows(a, b, reinterpret_cast<const typename Tile::Product*>(shared + Tile::kRowsAt), first_row);
  std::conditional_t<Tile::kRaw, FlashRawQueries<Tile>, FlashQueries<Tile>> queries(a, b, shared);
  // Keys that earlier steps wrote need not wait for the kernel before; of raw rows no others are read.
  const int end_of_old = Tile::kRaw ? INT_MAX : Tile::kOwnKeys ? b.s.context - a.fresh_keys : 0;
  int started = 0;
  for (; started < Tile::kStages - 1 && keys.FirstKeyOf(started) + Tile::kKeys <= end_of_old; ++started) {
    keys.Start(started);
  }
  if constexpr (Tile::kRaw) queries.Prepare();
  AwaitPrevious();
  if constexpr (!Tile::kRaw) queries.Fetch();
  for (; started < Tile::kStages - 1; ++started) keys.Start(started);
  queries.Store();
  __syncthreads();
  rows.TakeQueries();
  if constexpr (Tile::kRowsInStage) __syncthreads();  // all have theirs: the stage may be filled
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
    if constexpr (Tile::kHeld == FlashHeld::kOther) {
      keys.Gather(t);
      meet();
    }
    if constexpr (Tile::kRaw) {
      const int newest = b.s.context - 1 - keys.FirstKeyOf(t);
      if (newest < Tile::kKeys) {
        queries.AddNewest(keys.Keys(t), newest);
        meet();
      }
    }
    rows.Add(keys.Keys(t), keys.Values(t), keys.FirstKeyOf(t));
  }
  rows.Finish();
  if constexpr (Tile::kOwnKeys) {
    StoreMerged<Tile>(a, b, rows, shared + Tile::kTeamsAt);
  } else {
    StoreRows<Tile>(a, b, rows, first_row);
  }
}

template <typename Tile>
void LaunchTile(const FlashArgs& args) {
  TORCH_INTERNAL_ASSERT(Tile::kSplits || args.splits == 1);
  constexpr auto kernel = flash_attention_kernel<Tile>;
  AllowSharedBytes(kernel, Tile::kSharedBytes);
  const auto blocks = static_cast<unsigned>(int64_t{args.num_items} * args.kv_heads * args.splits);
  if (args.cluster > 1)
    LaunchClusters(kernel, static_cast<unsigned>(args.cluster), blocks, Tile::kThreads, Tile::kSharedBytes, args);
  else
    Launch(kernel, blocks, Tile::kThreads, Tile::kSharedBytes, args);
}

// Raw rows have no version for kOther, and none for kDecodeMany: for many sequences it saved nothing, as the operation
// runs while so many blocks are being started.
template <typename T, FlashHeld Held, int Dim>
void LaunchDecode(const FlashArgs& args) {
  if constexpr (Held != FlashHeld::kOther && !std::is_same_v<T, float>) {
    if (args.raw.slots != nullptr) return LaunchTile<FlashTile<T, Held, Dim, FlashKind::kDecode, true>>(args);
  }
  LaunchTile<FlashTile<T, Held, Dim, FlashKind::kDecode>>(args);
}

template <typename T, FlashHeld Held, int Dim>
void LaunchKind(FlashKind kind, const FlashArgs& args) {
  switch (kind) {
    case FlashKind::kDecode:
      return LaunchDecode<T, Held, Dim>(args);
    case FlashKind::kDecodeMany:
      return LaunchTile<FlashTile<T, Held, Dim, FlashKind::kDecodeMany>>(args);
    case FlashKind::kSmall:
      return LaunchTile<FlashTile<T, Held, Dim, FlashKind::kSmall>>(args);
    case FlashKind::kLarge:
      return LaunchTile<FlashTile<T, Held, Dim, FlashKind::kLarge>>(args);
  }
}

template <typename T, int Dim>
void LaunchHeld(FlashKind kind, FlashHeld held, const FlashArgs& args) {
  if (held == FlashHeld::kSame) return LaunchKind<T, FlashHeld::kSame, Dim>(kind, args);
  if constexpr (!std::is_same_v<T, float>) {
    if (held == FlashHeld::kBytes) return LaunchKind<T, FlashHeld::kBytes, Dim>(kind, args);
  }
  LaunchKind<T, FlashHeld::kOther, Dim>(kind, args);
}

template <int Dim>
void LaunchFlash(FlashKind kind, FlashElement type, FlashHeld held, const FlashArgs& args) {
  if (type == FlashElement::kBFloat16) return LaunchHeld<__nv_bfloat16, Dim>(kind, held, args);
  if (type == FlashElement::kHalf) return LaunchHeld<__half, Dim>(kind, held, args);
  LaunchHeld<float, Dim>(kind, held, args);
}

template <int Dim>
bool HasFlashCode() {
  cudaFuncAttributes attributes;
  const bool found =
      cudaFuncGetAttributes(&attributes,
                            flash_attention_kernel<FlashTile<__half, FlashHeld::kSame, Dim, FlashKind::kDecode>>) ==
      cudaSuccess;
  if (!found) cudaGetLastError();  // or the next launch reports it
  return found;
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_KERNEL_H_
