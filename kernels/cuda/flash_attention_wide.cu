// softmax(scale * q k^T) v of prompts on Hopper, after FlashAttention-3 (Shah et al., 2024).
//
// A block stays and takes one unit after the other: a tile of packed rows and a key head. One warp has the copy engine
// fetch a unit's queries, then tiles of keys and values in the order in which they are used up: a tile of values comes
// after the keys of the tile after. Two warpgroups have 64 of the rows each, and all the keys. Each starts the products
// of a tile's keys and those of the values before, and makes weights of the ones while the others run; the two take
// turns at starting, so that one's softmax runs beside the other's products.
#include <algorithm>

#include "kernels/cuda/cluster.h"
#include "kernels/cuda/flash_attention_softmax.h"
#include "kernels/cuda/flash_attention_tile.h"
#include "kernels/cuda/flash_attention_wide.h"
#include "kernels/cuda/hopper.h"

namespace automodeld {
namespace wide {  // named: not all of it is used where there is no code for Hopper

inline constexpr int kGroups = 2, kGroupThreads = 128, kConsumers = kGroups * kGroupThreads;
inline constexpr int kThreads = kConsumers + 128;  // registers are given and taken by whole warpgroups
inline constexpr int kRegisters = 232, kFeederRegisters = 40;
static_assert((2 * kRegisters + kFeederRegisters) * 128 <= 65536);

template <typename Element, int Dim>
struct WideTile {
  using T = Element;
  static constexpr int kDim = Dim;
  static constexpr int kKeys = 128;
  static constexpr int kStages = Dim == 128 ? 5 : 8;
  // In shared memory rows and keys alike are pieces of 64 columns, each [128][128 bytes].
  static constexpr int kPieces = Dim / 64, kPieceBytes = 128 * 128;
  static constexpr int kBytes = kPieces * kPieceBytes;
  static_assert(kKeys == 128 && kWideRows == 128);
};

// Rows [first, first + rows) of the sequence and a key head; keys in [begin, end), which may be none: nothing.
struct WideUnit {
  FlashSequence s;
  int kv_head, first, rows, begin, end;
};

template <typename Tile>
struct WideShared {
  uint8_t queries[2][Tile::kBytes];  // of this unit and of the next; results take their place
  uint8_t stages[Tile::kStages][Tile::kBytes];
  uint64_t queries_full[2], queries_empty[2];
  uint64_t full[Tile::kStages], empty[Tile::kStages];
  WideUnit units[2];
};

__device__ inline WideUnit UnitOf(const FlashArgs& a, int index) {
  const FlashItem item = a.items[index / a.kv_heads];
  WideUnit u{.s = a.sequences[item.sequence], .kv_head = index % a.kv_heads, .first = item.first};
  u.rows = min(WideTokens(a.group) * a.group, u.s.num_rows * a.group - u.first);
  if (u.rows <= 0) return {};  // an item of padding
  const int position = u.s.context - u.s.num_rows + u.first / a.group;
  u.begin = FirstKey(position, a.window);
  u.end = a.causal ? position + u.rows / a.group : u.s.context;
  return u;
}

// The warp that has everything fetched.
template <typename Tile>
class WideFeeder {
  static constexpr int kBoxBytes = kWideBoxKeys * 128, kBoxes = Tile::kKeys / kWideBoxKeys;

 public:
  __device__ WideFeeder(const FlashArgs& args, const FlashMaps& maps, WideShared<Tile>& shared)
      : a_(args), maps_(maps), shared_(shared), lane_(static_cast<int>(threadIdx.x) % 32) {}

  // Units come with the longest first: blocks take them to and fro, so that each gets about as many keys.
  __device__ void Run() {
    const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
    const int units = a_.num_items * a_.kv_heads;
    for (int first = 0, to = 1; first < units; first += blocks, to ^= 1) {
      const int index = first + (to == 1 ? block : blocks - 1 - block);
      if (index >= units) continue;
      const WideUnit unit = UnitOf(a_, index);
      if (unit.begin < unit.end) Feed(unit);
    }
    Announce({}, 0);  // no more
  }

 private:
  __device__ void Feed(const WideUnit& unit) {
    const int tokens = WideTokens(a_.group);
    Announce(unit, tokens * a_.group * 128 * Tile::kPieces);
    if (lane_ < Tile::kPieces) {
      hopper::CopyBox(shared_.queries[queries_.stage] + lane_ * Tile::kPieceBytes, maps_.queries, lane_ * 64,
                      unit.kv_head * a_.group, unit.s.first_row + unit.first / a_.group, 0,
                      &shared_.queries_full[queries_.stage]);
    }
    queries_.Next(2);
    const int tiles = DivideUp(unit.end - unit.begin, Tile::kKeys);
    for (int t = 0; t <= tiles; ++t) {
      if (t < tiles) Fill(maps_.keys, unit, t);
      if (t > 0) Fill(maps_.values, unit, t - 1);
    }
  }

  // Says what comes next, once the place is free, and how many bytes of queries.
  __device__ void Announce(const WideUnit& unit, uint32_t bytes) {
    hopper::Await(&shared_.queries_empty[queries_.stage], queries_.parity);
    if (lane_ == 0) {
      shared_.units[queries_.stage] = unit;
      hopper::ArriveExpecting(&shared_.queries_full[queries_.stage], bytes);
    }
    __syncwarp();
  }

  // Each lane has a box; those past the end are not fetched, and may have no page.
  __device__ void Fill(const CUtensorMap& map, const WideUnit& unit, int t) {
    const int first = unit.begin + t * Tile::kKeys, box = lane_ % kBoxes, piece = lane_ / kBoxes;
    const int key = first + box * kWideBoxKeys, page_size = a_.page_blocks * kWideBoxKeys;
    const bool is_mine = piece < Tile::kPieces && key < unit.end;
    int page = 0, token = unit.s.first_row + key;
    if (unit.s.first_page >= 0) {
      token = key % page_size;
      page = unit.s.first_page + key / page_size;
      if (a_.pages == nullptr) {
        page -= a_.first_page;
      } else if (is_mine) {
        page = a_.pages[page];
      }
    }
    const int boxes = min(kBoxes, DivideUp(unit.end - first, kWideBoxKeys));
    uint64_t* const full = &shared_.full[at_.stage];
    hopper::Await(&shared_.empty[at_.stage], at_.parity);
    if (lane_ == 0) hopper::ArriveExpecting(full, static_cast<uint32_t>(boxes * Tile::kPieces * kBoxBytes));
    __syncwarp();
    if (is_mine) {
      hopper::CopyBox(shared_.stages[at_.stage] + piece * Tile::kPieceBytes + box * kBoxBytes, map, piece * 64,
                      unit.kv_head, token, page, full);
    }
    at_.Next(Tile::kStages);
  }

  const FlashArgs& a_;
  const FlashMaps& maps_;
  WideShared<Tile>& shared_;
  const int lane_;
  hopper::Place queries_ = hopper::FirstFilling(), at_ = hopper::FirstFilling();
};

// A warpgroup.
template <typename Tile>
class WideConsumer {
  using T = typename Tile::T;
  using Softmax = FlashSoftmax<1, Tile::kKeys>;
  using Scores = float[Tile::kKeys / 2];
  using Weights = uint32_t[Tile::kKeys / 16][4];
  using Sums = float[Tile::kDim / 2];

 public:
  __device__ WideConsumer(const FlashArgs& args, WideShared<Tile>& shared)
      : a_(args),
        shared_(shared),
        group_(static_cast<int>(threadIdx.x) / kGroupThreads),
        warp_(static_cast<int>(threadIdx.x) / 32 % 4),
        lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ void Run() {
    if (group_ == 1) PassTurn();  // the first one's
    for (hopper::Place at;; at.Next(2)) {
      hopper::Await(&shared_.queries_full[at.stage], at.parity);
      const WideUnit unit = shared_.units[at.stage];
      if (unit.begin == unit.end) return;
      Attend(unit, shared_.queries[at.stage]);
      hopper::Arrive(&shared_.queries_empty[at.stage]);  // every lane: each has read the unit
    }
  }

 private:
  // Of the named barriers, 0 is __syncthreads'.
  __device__ void SyncGroup() const { hopper::SyncThreads<kGroupThreads>(1 + group_); }
  __device__ void AwaitTurn() const { hopper::SyncThreads<kConsumers>(3 + group_); }
  __device__ void PassTurn() const { hopper::ArriveThreads<kConsumers>(4 - group_); }

  __device__ void Attend(const WideUnit& unit, uint8_t* queries) {
    Softmax softmax(a_, unit.s, unit.first + group_ * 64 + warp_ * 16);
    Scores scores;
    Weights weights;
    Sums out = {};
    float shrink[2];
    const uint64_t rows = hopper::TileDescriptor(queries + group_ * 64 * 128);
    const auto weigh = [&](int t) {
      auto& in_eights = reinterpret_cast<typename Softmax::Scores&>(scores);
      const bool shrinks = softmax.Weigh(unit.begin + t * Tile::kKeys, in_eights, shrink);
      // Or else the compiler waits for the values' products before it makes weights: not past this loop.
      AwaitNext();
      return shrinks;
    };
    AwaitNext();
    StartScores(rows, scores);
    TakeOldest<0>(scores);
    weigh(0);
    Round(scores, weights);
    const int last = (unit.end - unit.begin - 1) / Tile::kKeys;
    for (int t = 1; t <= last; ++t) {
      AwaitTurn();
      StartScores(rows, scores);
      AwaitNext();
      StartSums(weights, out);
      PassTurn();
      TakeOldest<1>(scores);
      const bool shrinks = weigh(t);
      TakeOldest<0>(out);
      if (shrinks) Shrink(shrink, out);
      Round(scores, weights);
    }
    const int keys = unit.end - unit.begin - last * Tile::kKeys;
    if (keys % kWideBoxKeys != 0) ClearBox(keys);
    StartLastSums(weights, out, keys);
    TakeOldest<0>(out);
    softmax.Finish();
    Store(unit, softmax, out, queries);
  }

  // The ring's tiles come in the order in which products begin and end.
  __device__ void AwaitNext() const { hopper::Await(&shared_.full[next_.stage], next_.parity); }
  __device__ const uint8_t* TakeNext() {
    const uint8_t* tile = shared_.stages[next_.stage];
    next_.Next(Tile::kStages);
    return tile;
  }

  // Products of the next tile, keys, with the rows that `rows` describes.
  __device__ void StartScores(uint64_t rows, Scores& scores) {
    const uint64_t keys = hopper::TileDescriptor(TakeNext());
    hopper::Pin(scores);
    hopper::FenceProducts();
#pragma unroll
    for (int k = 0; k < Tile::kDim / 16; ++k) {
      const unsigned further = k / 4 * (Tile::kPieceBytes / 16) + k % 4 * 2;
      hopper::Multiply<T>(scores, rows + further, keys + further, k > 0);
    }
    hopper::CommitProducts();
  }

  // Of weights with the next tile, values.
  __device__ void StartSums(Weights& weights, Sums& out) {
    const uint64_t values = PrepareSums(weights, out);
    hopper::FenceProducts();
#pragma unroll
    for (int k = 0; k < Tile::kKeys / 16; ++k) hopper::MultiplyTurned<T>(out, weights[k], values + k * kNextSixteen);
    hopper::CommitProducts();
  }

  // The same of a tile of which the boxes from `keys` on are not there. The compiler wants what is behind a branch
  // whole.
  __device__ void StartLastSums(Weights& weights, Sums& out, int keys) {
    const uint64_t values = PrepareSums(weights, out);
#pragma unroll
    for (int k = 0; k < Tile::kKeys / 16; ++k) {
      if (k * 16 >= keys) continue;
      hopper::FenceProducts();
      hopper::MultiplyTurned<T>(out, weights[k], values + k * kNextSixteen);
      hopper::CommitProducts();
    }
  }

  static constexpr unsigned kNextSixteen = 16 * 128 / 16;  // keys, in a descriptor
  __device__ uint64_t PrepareSums(Weights& weights, Sums& out) {
    hopper::Pin(out);
#pragma unroll
    for (auto& some : weights) hopper::Pin(some);
    return hopper::TurnedDescriptor(TakeNext(), Tile::kPieceBytes);
  }

  // The oldest products that run, once but `running` have ended; their tile may be filled anew.
  template <int running, int n>
  __device__ void TakeOldest(float (&products)[n]) {
    hopper::AwaitProducts<running>();
    hopper::Pin(products);
    if (lane_ == 0) hopper::Arrive(&shared_.empty[oldest_.stage]);
    oldest_.Next(Tile::kStages);
  }

  // Zeros for values past the end in the last box of the next tile, which has so many keys: what lies there may be
  // another's NaN, which a weight of zero would not take out. Both warpgroups write them, and neither waits.
  __device__ void ClearBox(int keys) const {
    const int row = keys / kWideBoxKeys * kWideBoxKeys + warp_ * 4 + lane_ / 8;
    auto* at = reinterpret_cast<uint4*>(shared_.stages[next_.stage] + row * 128) + lane_ % 8;
#pragma unroll
    for (int piece = 0; piece < Tile::kPieces; ++piece) {
      if (row >= keys) at[piece * (Tile::kPieceBytes / 16)] = uint4{};
    }
    hopper::FenceForEngines();
    SyncGroup();
  }

  // Weights as a product's left side: what a thread holds of 16 columns of scores is what it takes of 16 keys.
  static __device__ void Round(const Scores& scores, Weights& weights) {
#pragma unroll
    for (int i = 0; i < Tile::kKeys / 4; ++i) weights[i / 4][i % 4] = PackPair(T{}, scores[2 * i], scores[2 * i + 1]);
  }

  static __device__ void Shrink(const float (&by)[2], Sums& out) {
#pragma unroll
    for (int i = 0; i < Tile::kDim / 2; ++i) out[i] *= by[i / 2 % 2];
  }

  // By way of the warp's queries' place, from where whole rows go out; swizzled as they are, so that banks differ.
  __device__ void Store(const WideUnit& unit, const Softmax& softmax, const Sums& out, uint8_t* queries) const {
    constexpr int kPacks = Tile::kDim / 8;  // of 16 bytes in a row
    const int warp_row = group_ * 64 + warp_ * 16;
    uint8_t* mine = queries + warp_row * 128;
    SyncGroup();  // the other warps' products of these queries have ended
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = softmax.Row(i), head = unit.kv_head * a_.group + (unit.first + warp_row + row) % a_.group;
      const float factor = Normalizer(a_, head, softmax.Largest(i), softmax.SumOfWeights(i));
#pragma unroll
      for (int n = 0; n < kPacks; ++n) {
        *reinterpret_cast<uint32_t*>(mine + PlaceOfPack(row, n) + lane_ % 4 * 4) =
            PackPair(T{}, out[4 * n + 2 * i] * factor, out[4 * n + 2 * i + 1] * factor);
      }
    }
    hopper::FenceForEngines();  // the next queries come here
    __syncwarp();
#pragma unroll
    for (int i = lane_; i < 16 * kPacks; i += 32) {
      const int row = i / kPacks, pack = i % kPacks;
      if (warp_row + row >= unit.rows) continue;
      const int packed = unit.first + warp_row + row, token = packed / a_.group;
      const int64_t head = (int64_t{unit.s.first_row} + token) * a_.heads + unit.kv_head * a_.group + packed % a_.group;
      reinterpret_cast<uint4*>(static_cast<T*>(a_.out) + head * Tile::kDim)[pack] =
          *reinterpret_cast<const uint4*>(mine + PlaceOfPack(row, pack));
    }
    __syncwarp();
  }
  static __device__ int PlaceOfPack(int row, int pack) {
    return pack / 8 * Tile::kPieceBytes + row * 128 + (pack % 8 ^ row % 8) * 16;
  }

  const FlashArgs& a_;
  WideShared<Tile>& shared_;
  const int group_, warp_, lane_;
  hopper::Place next_, oldest_;
};

template <typename Tile>
__global__ void __launch_bounds__(kThreads, 1)
    flash_attention_wide_kernel(const __grid_constant__ FlashMaps maps, const __grid_constant__ FlashArgs a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<WideShared<Tile>*>(memory);
  AllowNext();
  if (threadIdx.x == 0) {
    hopper::PrefetchMap(maps.queries);
    hopper::PrefetchMap(maps.keys);
    hopper::PrefetchMap(maps.values);
    for (int i = 0; i < 2; ++i) {
      hopper::InitBarrier(&shared.queries_full[i], 1);
      hopper::InitBarrier(&shared.queries_empty[i], kConsumers);
    }
    for (int i = 0; i < Tile::kStages; ++i) {
      hopper::InitBarrier(&shared.full[i], 1);
      hopper::InitBarrier(&shared.empty[i], kConsumers / 32);
    }
    hopper::FenceBarrierInit();
  }
  __syncthreads();
  AwaitPrevious();
  if (threadIdx.x >= kConsumers) {
    hopper::GiveRegisters<kFeederRegisters>();
    if (threadIdx.x < kConsumers + 32) WideFeeder<Tile>(a, maps, shared).Run();
  } else {
    hopper::TakeRegisters<kRegisters>();
    WideConsumer<Tile>(a, shared).Run();
  }
#endif
}

static_assert(sizeof(WideShared<WideTile<__half, 128>>) <= 227 * 1024);

template <typename Tile>
void LaunchTile(int64_t most_blocks, const FlashMaps& maps, const FlashArgs& args) {
  constexpr auto kernel = flash_attention_wide_kernel<Tile>;
  AllowSharedBytes(kernel, sizeof(WideShared<Tile>));
  const auto blocks = static_cast<unsigned>(std::min(most_blocks, int64_t{args.num_items} * args.kv_heads));
  Launch(kernel, blocks, kThreads, sizeof(WideShared<Tile>), maps, args);
}

}  // namespace wide

template <int Dim>
void LaunchWideFlash(bool bfloat16, int64_t most_blocks, const FlashMaps& maps, const FlashArgs& args) {
  using namespace wide;
  bfloat16 ? LaunchTile<WideTile<__nv_bfloat16, Dim>>(most_blocks, maps, args)
           : LaunchTile<WideTile<__half, Dim>>(most_blocks, maps, args);
}

template void LaunchWideFlash<64>(bool, int64_t, const FlashMaps&, const FlashArgs&);
template void LaunchWideFlash<128>(bool, int64_t, const FlashMaps&, const FlashArgs&);

}  // namespace automodeld
