// How a block of threads is laid out for flash attention, and how keys and values get into its shared memory.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_TILE_H_
#define KERNELS_CUDA_FLASH_ATTENTION_TILE_H_

#include "kernels/cuda/flash_attention.h"
#include "kernels/cuda/flash_attention_mma.h"

namespace automodeld {

// A team of threads takes keys tile after tile through stages of its own. kDecode: every warp is a team, and all have
// the same rows; else the block is one team, and every warp has rows of its own.
template <typename Element, bool Convert, int Dim, FlashKind Kind>
struct FlashTile {
  using T = Element;
  static constexpr bool kConvert = Convert;  // keys come as another type than T
  static constexpr int kDim = Dim;
  static constexpr bool kOwnKeys = Kind == FlashKind::kDecode;
  static constexpr bool kLarge = Kind == FlashKind::kLarge;
  static constexpr int kWarps = Kind == FlashKind::kSmall ? 2 : 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTeam = kOwnKeys ? 32 : kThreads;
  static constexpr int kTeams = kThreads / kTeam;
  static constexpr int kRows = static_cast<int>(FlashRows(Kind, Dim));
  static constexpr int kRowTiles = kRows / 16 / (kOwnKeys ? 1 : kWarps);  // of 16 rows, of a warp
  static constexpr int kKeys = kOwnKeys ? 16 : (kLarge && Dim <= 128 ? 64 : 32);
  static constexpr int kStages = !kOwnKeys ? 2 : (Convert || Dim < 128 ? 4 : 3);
  static constexpr bool kRowsInRegisters = kRowTiles * Dim <= 128;
  static constexpr int kBlocksPerSm = Dim <= 128 || kOwnKeys ? 2 : 1;

  // Shared memory: queries, then for each team its stages and, with kConvert, its converted keys and values. Rows of T
  // are 16 bytes longer than they need be, so that eight of them lie in different banks.
  static constexpr int kStride = Dim + 8;
  static constexpr int kTileBytes = kKeys * kStride * 2;                        // of T
  static constexpr int kStageBytes = 2 * (Convert ? kKeys * Dim : kTileBytes);  // keys, then values
  static constexpr int kTeamBytes = kStages * kStageBytes + (Convert ? 2 * kTileBytes : 0);
  static constexpr int kRowBytes = kRows * kStride * 2;
  static constexpr int kMergeBytes = kOwnKeys ? kWarps * 16 * (Dim + 2) * 4 : 0;
  static constexpr int kAllTeamBytes = kTeams * kTeamBytes > kMergeBytes ? kTeams* kTeamBytes : kMergeBytes;
  static constexpr int kSharedBytes = kRowBytes + kAllTeamBytes;
};

// What a block computes: packed rows [first, first + rows) of `s`, which see keys in [begin, end).
struct FlashBlock {
  FlashSequence s;
  int kv_head, split;
  int first, rows;
  int begin, end;
};

__device__ inline int DivideUp(int a, int b) { return (a + b - 1) / b; }

// The keys of split `split`: equal pieces of [begin, end) in multiples of `unit`; empty for splits that are not needed.
struct FlashSpan {
  int begin, end;
};
__device__ inline int SplitLength(int begin, int end, int splits, int unit) {
  return DivideUp(DivideUp(end - begin, splits), unit) * unit;
}
// The first key that a row at `position` sees, down to a border of 16.
__device__ inline int FirstKey(int position, int window) {
  return window > 0 && position >= window ? (position - window + 1) / 16 * 16 : 0;
}
inline constexpr int kFlashSplitUnit = 64;

// The keys and values of one team: tile t has keys begin + (team + t * kTeams) * kKeys and so on.
template <typename Tile>
class FlashKeys {
  using T = typename Tile::T;

 public:
  __device__ FlashKeys(const FlashArgs& args, const FlashBlock& block, char* shared, int team, int thread)
      : a_(args), b_(block), shared_(shared + team * Tile::kTeamBytes), team_(team), thread_(thread) {
    const int all = DivideUp(b_.end - b_.begin, Tile::kKeys);
    tiles_ = all > team ? DivideUp(all - team, Tile::kTeams) : 0;
    if constexpr (Tile::kOwnKeys) next_pages_ = PageOf(thread_);
  }

  __device__ int tiles() const { return tiles_; }
  __device__ int FirstKeyOf(int t) const { return b_.begin + (team_ + t * Tile::kTeams) * Tile::kKeys; }

  // Starts the copy of tile t, and of the next one at the next call; always one group.
  __device__ void Start(int t) {
    if (t < tiles_) {
      if constexpr (Tile::kOwnKeys) NextPages(t);
      if (!Tile::kConvert || a_.copies_16) {
        char* stage = shared_ + t % Tile::kStages * Tile::kStageBytes;
        Copy(a_.keys, t, stage);
        Copy(a_.values, t, stage + Tile::kStageBytes / 2);
      }
    }
    CommitCopies();
  }

  // Tile t as T, once the team may read its stage: [kKeys][kStride] each.
  __device__ const T* Keys(int t) const { return reinterpret_cast<const T*>(Ready(t)); }
  __device__ const T* Values(int t) const { return reinterpret_cast<const T*>(Ready(t) + Tile::kTileBytes); }

  // With kConvert: makes tile t readable; the team must meet before and after.
  __device__ void ConvertTile(int t) {
    Widen(a_.keys, t, 0);
    Widen(a_.values, t, 1);
  }

 private:
  __device__ char* Ready(int t) const {
    return shared_ + (Tile::kConvert ? Tile::kStages : t % Tile::kStages) * Tile::kStageBytes;
  }

  // Pages of the tiles from 32 n on, one a lane, are fetched 32 tiles ahead of their use.
  __device__ int PageOf(int t) const {
    if (t >= tiles_ || b_.s.first_page < 0) return 0;
    return a_.pages[b_.s.first_page + FirstKeyOf(t) / 16 / a_.page_blocks];
  }
  __device__ void NextPages(int t) {
    if (t % 32 == 0) {
      pages_ = next_pages_;
      next_pages_ = PageOf(t + 32 + thread_);
    }
    page_ = __shfl_sync(0xffffffffU, pages_, t % 32);
  }

  // Where the keys of block `block` of 16 begin.
  __device__ int64_t Offset(const FlashSource& from, int block) const {
    if (b_.s.first_page < 0) return (b_.s.first_row + int64_t{block} * 16) * from.token_stride;
    const int in_page = a_.page_blocks == 1 ? 0 : block % a_.page_blocks;
    int page = page_;
    if constexpr (!Tile::kOwnKeys) {
      page = a_.pages[b_.s.first_page + (a_.page_blocks == 1 ? block : block / a_.page_blocks)];
    }
    return page * from.page_stride + int64_t{in_page} * 16 * from.token_stride;
  }

  // Keys past the context become zeros: what lies there may be another's NaN, which no mask would take out of V.
  __device__ void Copy(const FlashSource& from, int t, char* to) const {
    constexpr int kBytes = Tile::kConvert ? 1 : 2, kPerCopy = 16 / kBytes, kCopies = Tile::kDim / kPerCopy;
    constexpr int kTotal = Tile::kKeys * kCopies, kToStride = Tile::kConvert ? Tile::kDim : Tile::kStride * 2;
    const char* base = static_cast<const char*>(from.base);
    const int first = FirstKeyOf(t), head = b_.kv_head * a_.head_dim;
#pragma unroll
    for (int i = 0; i < DivideUpHost(kTotal, Tile::kTeam); ++i) {
      const int copy = i * Tile::kTeam + thread_;
      if (kTotal % Tile::kTeam != 0 && copy >= kTotal) break;
      const int row = copy / kCopies, column = copy % kCopies * kPerCopy, key = first + row;
      const bool valid = key < b_.s.context && column < a_.head_dim;
      int64_t offset = 0;
      if (valid) offset = Offset(from, key / 16) + int64_t{key % 16} * from.token_stride + head + column;
      CopyAsync16(to + row * kToStride + column * kBytes, base + offset * kBytes, valid);
    }
  }

  static constexpr int DivideUpHost(int a, int b) { return (a + b - 1) / b; }

  // `which`: 0 keys, 1 values
  __device__ void Widen(const FlashSource& from, int t, int which) {
    constexpr int kPieces = Tile::kDim / 8, kTotal = Tile::kKeys * kPieces;
    const char* raw = shared_ + t % Tile::kStages * Tile::kStageBytes + which * (Tile::kStageBytes / 2);
    T* to = reinterpret_cast<T*>(Ready(t) + which * Tile::kTileBytes);
    for (int piece = thread_; piece < kTotal; piece += Tile::kTeam) {
      const int row = piece / kPieces, column = piece % kPieces * 8;
      uint4 wide;
      if (a_.copies_16) {
        const uint2 held = *reinterpret_cast<const uint2*>(raw + row * Tile::kDim + column);
        wide = {WidenPair(T{}, static_cast<uint16_t>(held.x)), WidenPair(T{}, static_cast<uint16_t>(held.x >> 16)),
                WidenPair(T{}, static_cast<uint16_t>(held.y)), WidenPair(T{}, static_cast<uint16_t>(held.y >> 16))};
      } else {
        wide = Gather(from, FirstKeyOf(t) + row, column);
      }
      *reinterpret_cast<uint4*>(to + row * Tile::kStride + column) = wide;
    }
  }

  // Eight elements of any type from global memory.
  __device__ uint4 Gather(const FlashSource& from, int key, int column) const {
    if (key >= b_.s.context) return {};
    int64_t offset = 0;
    if (b_.s.first_page < 0) {
      offset = (b_.s.first_row + int64_t{key}) * from.token_stride;
    } else {
      const int page_size = 16 * a_.page_blocks, page = a_.pages[b_.s.first_page + key / page_size];
      offset = page * from.page_stride + key % page_size * from.token_stride;
    }
    offset += b_.kv_head * a_.head_dim + column;
    float x[8];
    for (int i = 0; i < 8; ++i) x[i] = column + i < a_.head_dim ? Read(from.base, offset + i) : 0.0f;
    return {PackPair(T{}, x[0], x[1]), PackPair(T{}, x[2], x[3]), PackPair(T{}, x[4], x[5]), PackPair(T{}, x[6], x[7])};
  }
  __device__ float Read(const void* base, int64_t at) const {
    switch (a_.element) {
      case FlashElement::kFloat:
        return static_cast<const float*>(base)[at];
      case FlashElement::kHalf:
        return __half2float(static_cast<const __half*>(base)[at]);
      case FlashElement::kBFloat16:
        return __bfloat162float(static_cast<const __nv_bfloat16*>(base)[at]);
      case FlashElement::kE4m3:
        break;
    }
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(static_cast<const __nv_fp8_storage_t*>(base)[at], __NV_E4M3)));
  }

  const FlashArgs& a_;
  const FlashBlock& b_;
  char* shared_;
  int team_, thread_;
  int tiles_ = 0;
  int page_ = 0, pages_ = 0, next_pages_ = 0;
};

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_TILE_H_
