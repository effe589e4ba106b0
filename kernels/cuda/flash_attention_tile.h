// How a block of threads is laid out for flash attention, and how keys and values get into its shared memory.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_TILE_H_
#define KERNELS_CUDA_FLASH_ATTENTION_TILE_H_

#include <algorithm>
#include <bit>
#include <type_traits>

#include "kernels/cuda/flash_attention.h"
#include "kernels/cuda/flash_attention_fragments.h"

namespace automodeld {

// A team of threads takes keys tile after tile through stages of its own. Decode: every warp is a team, and all have
// the same rows; else the block is one team, and every warp has rows of its own. Raw, for kDecode alone: see FlashRaw.
template <typename Element, FlashHeld Held, int Dim, FlashKind Kind, bool Raw = false>
struct FlashTile {
  using T = Element;  // of queries and results
  static constexpr FlashHeld kHeld = Held;
  static constexpr bool kBytes = Held == FlashHeld::kBytes;
  static constexpr bool kFloat = std::is_same_v<T, float>;
  static constexpr bool kRaw = Raw;
  using Product = std::conditional_t<kBytes, __half, T>;  // what is multiplied
  static constexpr int kDim = Dim;
  static constexpr bool kOwnKeys = Kind == FlashKind::kDecode || Kind == FlashKind::kDecodeMany;
  static constexpr bool kSplits = Kind == FlashKind::kDecode;  // whether blocks may share a row's keys
  static constexpr bool kLarge = Kind == FlashKind::kLarge;
  static constexpr int kWarps = (Kind == FlashKind::kDecode && !(kFloat && Dim > 128)) || kLarge ? 4 : 2;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTeam = kOwnKeys ? 32 : kThreads;
  static constexpr int kTeams = kThreads / kTeam;
  static constexpr int kRows = static_cast<int>(FlashRows(Kind, Dim));
  static constexpr int kRowTiles = kRows / 16 / (kOwnKeys ? 1 : kWarps);  // of 16 rows, of a warp
  static constexpr int kDecodeKeys = kBytes ? 32 : 16;                    // as many as a load of fragments takes
  static constexpr int kKeys = kOwnKeys ? kDecodeKeys : (kLarge && Dim <= 128 && !kFloat ? 64 : 32);
  static constexpr int kStages = !kOwnKeys || kFloat ? 2 : (Dim < 128 ? 4 : 3);
  static constexpr bool kRowsInRegisters = kRowTiles * Dim <= 128 && !kFloat;
  static constexpr int kSmallPerSm = Dim <= 64 && !kFloat ? 8 : 4, kFourWarpsPerSm = Dim <= 128 ? 2 : 1;
  static constexpr int kBlocksPerSm = Kind == FlashKind::kSmall ? kSmallPerSm : kFourWarpsPerSm * 4 / kWarps;

  // Shared memory: queries, then for each team its stages. Rows are an odd number of 16 bytes long, so that eight of
  // them lie in different banks. Decode's queries in registers make way for a stage that is filled only after that.
  static constexpr int kStride = Dim + 16 / static_cast<int>(sizeof(T));          // of queries, in elements
  static constexpr int kElementBytes = kBytes ? 1 : static_cast<int>(sizeof(T));  // of keys and values
  static constexpr int kKeyBytes = (Dim * kElementBytes / 16 | 1) * 16;
  static constexpr int kTileBytes = kKeys * kKeyBytes;
  static constexpr int kStageBytes = 2 * kTileBytes;  // keys, then values
  static constexpr int kTeamBytes = kStages * kStageBytes;
  static constexpr bool kRowsInStage = kOwnKeys && kRowsInRegisters;
  static constexpr int kRowBytes = kRows * kStride * static_cast<int>(sizeof(T));
  static constexpr int kRowsAt = kRowsInStage ? kTeamBytes - kStageBytes : 0;
  static constexpr int kTeamsAt = kRowsInStage ? 0 : kRowBytes;
  static constexpr int kSumsWidth = Dim + 4;  // floats: columns, then the largest score and the sum of weights
  static constexpr int kNewestAt = kTeamsAt + kTeams * kTeamBytes;  // of raw rows: a key, a value
  static constexpr int kSharedBytes = kNewestAt + (kRaw ? 2 * kKeyBytes : 0);
  static_assert(!kRaw || (Kind == FlashKind::kDecode && Held != FlashHeld::kOther && !kFloat));
  static_assert(!kBytes || !kFloat);
  static_assert(!kRowsInStage || kRowBytes <= kStageBytes);

  using Fragments = FlashFragments<kElementBytes, kKeyBytes>;
};

// What a block computes: packed rows [first, first + rows) of `s` over keys in [begin, end), which may be none. The
// blocks of a unit have the same rows and key head. Its clusters, of which the first `parts` have keys, are its parts.
struct FlashBlock {
  FlashSequence s;
  int kv_head, unit;
  int part, parts;
  int rank, blocks;  // in the cluster; its first `blocks` have keys
  int all;           // the unit's blocks that have
  int first, rows;
  int begin, end;
};

// A packed row's place among the step's rows, and its head. A decode sequence has but one token.
struct FlashPlace {
  int64_t token;
  int head;
};
template <typename Tile>
__device__ FlashPlace PlaceOf(const FlashArgs& a, const FlashBlock& b, int row) {
  const int packed = b.first + row, token = Tile::kOwnKeys ? 0 : packed / a.group;
  return {int64_t{b.s.first_row} + token, b.kv_head * a.group + packed - token * a.group};
}

__device__ inline int DivideUp(int a, int b) { return (a + b - 1) / b; }

// The first key that a row at `position` sees, down to a border of 16.
__device__ inline int FirstKey(int position, int window) {
  return window > 0 && position >= window ? (position - window + 1) / 16 * 16 : 0;
}

// The keys and values of one team: tile t has keys begin + (team + t * kTeams) * kKeys and so on.
template <typename Tile>
class FlashKeys {
  static constexpr int kBlocks = Tile::kKeys / 16, kHeldBytes = Tile::kElementBytes;

 public:
  __device__ FlashKeys(const FlashArgs& args, const FlashBlock& block, char* shared, int team, int thread)
      : a_(args), b_(block), shared_(shared + team * Tile::kTeamBytes), team_(team), thread_(thread) {
    const int all = DivideUp(b_.end - b_.begin, Tile::kKeys);
    tiles_ = all > team ? DivideUp(all - team, Tile::kTeams) : 0;
    next_pages_ = PageOf(thread_ % 32);
  }

  __device__ int tiles() const { return tiles_; }
  __device__ int FirstKeyOf(int t) const { return b_.begin + (team_ + t * Tile::kTeams) * Tile::kKeys; }

  // Starts the copy of tile t, and of the next one at the next call; always one group.
  __device__ void Start(int t) {
    if (Tile::kHeld != FlashHeld::kOther && t < tiles_) {
      if (t * kBlocks % 32 == 0) {
        places_ = PlaceOfBlock(t * kBlocks + thread_ % 32, next_pages_);
        next_pages_ = PageOf(t * kBlocks + 32 + thread_ % 32);
      }
      Copy(t, StageOf(t));
    }
    CommitCopies();
  }

  // Tile t, once the team may read its stage: [kKeys] of kKeyBytes each.
  __device__ char* Keys(int t) const { return StageOf(t); }
  __device__ const char* Values(int t) const { return StageOf(t) + Tile::kTileBytes; }

  // kOther, instead of Start: the team must meet before and after.
  __device__ void Gather(int t) {
    Gather(a_.source.keys, t, StageOf(t));
    Gather(a_.source.values, t, StageOf(t) + Tile::kTileBytes);
  }

 private:
  __device__ char* StageOf(int t) const { return shared_ + t % Tile::kStages * Tile::kStageBytes; }

  // The team's blocks of 16 keys are counted through its tiles. Pages and places of 32 blocks are spread over the lanes
  // of a warp, the pages fetched 32 blocks ahead of their use.
  __device__ int KeyOfBlock(int block) const { return FirstKeyOf(block / kBlocks) + block % kBlocks * 16; }
  __device__ int PageOf(int block) const {
    const int key = KeyOfBlock(block);
    if (b_.s.first_page < 0 || key >= b_.end) return 0;
    return a_.pages[b_.s.first_page + (a_.page_blocks == 1 ? key / 16 : key / 16 / a_.page_blocks)];
  }
  // Bytes from the first key of page 0, or of the first row.
  __device__ int64_t PlaceOfBlock(int block, int page) const {
    const int key = KeyOfBlock(block);
    if (b_.s.first_page < 0) return (b_.s.first_row + int64_t{key}) * a_.source.token_stride * kHeldBytes;
    const int in_page = a_.page_blocks == 1 ? 0 : key / 16 % a_.page_blocks * 16;
    return (page * a_.source.page_stride + in_page * a_.source.token_stride) * kHeldBytes;
  }

  // Keys past the end become zeros: what lies there may be another's NaN, which no mask would take out of V. So does
  // the newest key where rows are raw: it is not in the cache yet. Threads side by side take a row, and as many rows at
  // a time as a power of two allows: so each has the same columns of all its rows, and little to work out for each.
  __device__ void Copy(int t, char* to) const {
    constexpr int kPerCopy = 16 / kHeldBytes, kCopies = Tile::kDim / kPerCopy;
    constexpr int kAcross = std::min(kCopies, Tile::kTeam);
    constexpr int kAtOnce = static_cast<int>(std::bit_floor(static_cast<unsigned>(Tile::kTeam / kAcross)));
    constexpr int kBlockRows = std::max(16, kAtOnce);
    static_assert(kCopies % kAcross == 0 && Tile::kKeys % kBlockRows == 0);
    const int mine = thread_ / kAcross, token_bytes = static_cast<int>(a_.source.token_stride) * kHeldBytes;
    const int end = Tile::kRaw ? min(b_.end, b_.s.context - 1) : b_.end, left = end - FirstKeyOf(t) - mine;
#pragma unroll
    for (int across = 0; across < kCopies; across += kAcross) {
      const int column = (across + thread_ % kAcross) * kPerCopy;
      const int64_t offset = int64_t{b_.kv_head * a_.head_dim + column} * kHeldBytes + mine % 16 * token_bytes;
      const char *keys = static_cast<const char*>(a_.source.keys) + offset,
                 *values = static_cast<const char*>(a_.source.values) + offset;
      const int rows = column < a_.head_dim ? left : 0;
      const uint32_t at = hopper::SharedAddress(to + mine * Tile::kKeyBytes + column * kHeldBytes);
#pragma unroll
      for (int first = 0; first < Tile::kKeys; first += kBlockRows) {
        int64_t place = __shfl_sync(0xffffffffU, places_, t * kBlocks % 32 + first / 16 + mine / 16);
        if (kAtOnce * kAcross < Tile::kTeam && mine >= kAtOnce) continue;
#pragma unroll
        for (int row = first; row < first + kBlockRows; row += kAtOnce, place += kAtOnce * token_bytes) {
          CopyAsync16(at + row * Tile::kKeyBytes, keys + place, row < rows);
          CopyAsync16(at + row * Tile::kKeyBytes + Tile::kTileBytes, values + place, row < rows);
        }
      }
    }
  }

  // Elements of any type from global memory, one by one: slow.
  __device__ void Gather(const void* base, int t, char* to) const {
    for (int i = thread_; i < Tile::kKeys * Tile::kDim; i += Tile::kTeam) {
      const int row = i / Tile::kDim, column = i % Tile::kDim, key = FirstKeyOf(t) + row;
      float x = 0.0f;
      if (key < b_.s.context && column < a_.head_dim) {
        int64_t token = b_.s.first_row + int64_t{key}, page = 0;
        if (b_.s.first_page >= 0) {
          token = key % (16 * a_.page_blocks);
          page = a_.pages[b_.s.first_page + key / (16 * a_.page_blocks)];
        }
        x = Read(base,
                 page * a_.source.page_stride + token * a_.source.token_stride + b_.kv_head * a_.head_dim + column);
      }
      reinterpret_cast<typename Tile::T*>(to + row * Tile::kKeyBytes)[column] = static_cast<typename Tile::T>(x);
    }
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
  int next_pages_ = 0;
  int64_t places_ = 0;
};

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_TILE_H_
