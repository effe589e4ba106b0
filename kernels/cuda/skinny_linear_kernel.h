// The kernel of skinny_linear.cu. y = act(row_scale * column_scale * x W^T + bias) for few rows of x: the time is that
// of reading W once, so the kernel is a stream of W through shared memory.
//
// A block takes tiles of 64 x groups rows of W. One warp feeds a ring of stages, each 128 bytes of K of the tile and of
// x, by the copy engine; each warpgroup multiplies its 64 rows of W, the wgmma's rows, by x, its columns. `split`
// blocks of a cluster share a tile, each a part of K, and send each other their sums, which are added up in the order
// of their ranks. Without a split a block goes on to the next tile while its warpgroups write the last one's result.
// The ring is filled with W before the kernels before have ended: W is constant.
#ifndef KERNELS_CUDA_SKINNY_LINEAR_KERNEL_H_
#define KERNELS_CUDA_SKINNY_LINEAR_KERNEL_H_

#include "kernels/cuda/cluster.h"
#include "kernels/cuda/hopper.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_epilogue.h"

namespace automodeld::skinny {

inline constexpr int kTileRows = 64;     // of W, for each warpgroup
inline constexpr int kBlockBytes = 128;  // of K, in each stage
inline constexpr int kMaxSplit = 8;      // of K: the blocks of a cluster

struct Args {
  LinearEpilogue epilogue;
  int rows, out;
  int blocks;      // pieces of kBlockBytes in a row of W; the last one may be padded
  int tiles;       // of 64 x groups rows of W
  int split_bits;  // log2 of a cluster's blocks, which are at most `blocks`; the grid has at most `tiles` clusters, and
                   // as many if split
  int stages;      // of the ring
};

template <int tokens, int groups>
struct alignas(1024) Stage {
  uint8_t weight[groups * kTileRows][kBlockBytes];
  uint8_t x[tokens][kBlockBytes];
};

// What the blocks that share a tile, one warpgroup each, send this one: over its part of K, the sums of each for every
// split-th eight rows of x, which this block adds up. Each thread sends to the one in its place.
template <int tokens>
struct Parts {
  float4* sums;     // [split][eights][thread]
  uint64_t* there;  // whether they have come

  __device__ float4* Of(uint32_t rank, int eight, const Args& args) const {
    const int eights = max(1, tokens / 8 >> args.split_bits);
    return sums + (static_cast<int>(rank) * eights + (eight >> args.split_bits)) * 128 + threadIdx.x;
  }
  __device__ static uint32_t Expected(const Args& args) {
    const uint32_t split = 1U << args.split_bits, eights = (args.rows + 7) / 8;
    return (eights + split - 1 - ClusterRank()) / split * (split - 1) * 128 * sizeof(float4);
  }
  __host__ __device__ static int Bytes(int split_bits) {
    const int eights = split_bits == 0 ? 0 : max(1 << split_bits, tokens / 8);
    return eights * 128 * static_cast<int>(sizeof(float4));
  }
};

template <int tokens, int groups>
int SharedBytes(int stages, int split_bits) {
  constexpr int kBarrier = sizeof(uint64_t), kStage = sizeof(Stage<tokens, groups>) + 2 * kBarrier;
  return stages * kStage + Parts<tokens>::Bytes(split_bits) + kBarrier + tokens * 4;
}

template <int groups>
inline constexpr int kThreads = groups * 128 + 32;

// A block's way through its part of W: tile by tile, in each along K.
struct Walk {
  int tile, block;  // where it is
  int tile_step, first_block, last_block, tiles;

  __device__ explicit Walk(const Args& args)
      : tile(static_cast<int>(ClusterIndex())), tile_step(static_cast<int>(NumClusters())), tiles(args.tiles) {
    const int rank = static_cast<int>(ClusterRank());
    block = first_block = (args.blocks * rank) >> args.split_bits;
    last_block = (args.blocks * (rank + 1)) >> args.split_bits;
  }
  __device__ bool Done() const { return tile >= tiles; }
  __device__ void Next() {
    if (++block == last_block) block = first_block, tile += tile_step;
  }
};

// The columns of y that a thread writes, first and first + 8: what becomes of their sums. Read early: scale and bias
// come from afar.
struct Columns {
  int first;
  float scale[2], bias[2];

  __device__ Columns(const Args& args, int from) : first(from) {
    WithOutput(args.epilogue.output, [&](auto* type) {
      const auto* bias_of = static_cast<const std::remove_pointer_t<decltype(type)>*>(args.epilogue.bias);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int column = min(first + j * 8, args.out - 1);
        scale[j] = args.epilogue.column_scale == nullptr ? 1.0F : args.epilogue.column_scale[column];
        bias[j] = bias_of == nullptr ? 0.0F : static_cast<float>(bias_of[column]);
      }
    });
  }
};

template <int groups>
__device__ void SyncConsumers() {
  hopper::SyncThreads<groups * 128>(1);
}

template <bool split, int tokens, int groups>
__device__ void Produce(Stage<tokens, groups>* ring, uint64_t* full, uint64_t* empty, const CUtensorMap& weight,
                        const CUtensorMap& x, const Args& args) {
  using namespace hopper;
  const auto load_weight = [&](const Walk& at, int stage) {
    ArriveExpecting(&full[stage], sizeof(ring->weight) + sizeof(ring->x));
    CopyTile(ring[stage].weight, weight, at.block * kBlockBytes, at.tile * groups * kTileRows, &full[stage],
             kEvictFirst);
  };
  const auto load_x = [&](const Walk& at, int stage) {
    CopyTile(ring[stage].x, x, at.block * kBlockBytes, 0, &full[stage], kEvictLast);
  };
  Walk at(args), x_at = at;
  int filled = 0;
  for (; filled < args.stages && !at.Done(); at.Next()) load_weight(at, filled++);
  if constexpr (split) ClusterWait();
  AwaitPrevious();
  for (int i = 0; i < filled; ++i, x_at.Next()) load_x(x_at, i);
  for (Place place; !at.Done(); at.Next()) {
    Await(&empty[place.stage], place.parity);
    load_weight(at, place.stage);
    load_x(at, place.stage);
    place.Next(args.stages);
  }
}

// Sums of rows from `first_row` on, laid out as hopper::Multiply says, become y's values.
template <int tokens>
__device__ void Finish(float (&sum)[tokens / 2], const Columns& columns, const float* scales, int first_row,
                       const Args& args) {
  const int pair = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int i = 0; i < tokens / 2; ++i) {
    const int half = i / 2 % 2;
    sum[i] = sum[i] * columns.scale[half] * scales[first_row + i / 4 * 8 + pair + i % 2] + columns.bias[half];
  }
  if (args.epilogue.activation == LinearEpilogue::Activation::kNone) return;
#pragma unroll
  for (int i = 0; i < tokens / 2; ++i) sum[i] = Activate(sum[i], args.epilogue.activation);
}

// Any type, any number of columns.
template <int tokens, typename To>
__device__ void WriteSingly(const float (&value)[tokens / 2], const Columns& columns, int first_row, const Args& args) {
  const int pair = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int i = 0; i < tokens / 2; ++i) {
    const int row = first_row + i / 4 * 8 + pair + i % 2, column = columns.first + i / 2 % 2 * 8;
    if (row < args.rows && column < args.out) {
      static_cast<To*>(args.epilogue.y)[int64_t{row} * args.out + column] = RoundTo<To>(value[i]);
    }
  }
}

// 16-bit types and an even number of columns: two columns at a time.
template <int tokens, typename To>
__device__ void WritePairs(const float (&value)[tokens / 2], const Columns& columns, int first_row, const Args& args) {
  const int lane = static_cast<int>(threadIdx.x) % 32, column = columns.first - lane / 4 + lane % 4 * 2;
  To* y = static_cast<To*>(args.epilogue.y) + int64_t{first_row + lane / 4} * args.out + column;
#pragma unroll
  for (int i = 0; i < tokens / 2; i += 4, y += int64_t{8} * args.out) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Pack<To, 2> two;
      two[0] = RoundTo<To>(value[i + 2 * half]);
      two[1] = RoundTo<To>(value[i + 2 * half + 1]);
      uint32_t bits;
      memcpy(&bits, &two, sizeof(bits));
      const uint32_t turned = hopper::Transpose8x8(bits);
      if (first_row + i * 2 + lane / 4 < args.rows && column + 8 * half < args.out) {
        *reinterpret_cast<uint32_t*>(y + 8 * half) = turned;
      }
    }
  }
}

template <int tokens>
__device__ void WriteRows(float (&sum)[tokens / 2], const Columns& columns, const float* scales, int first_row,
                          const Args& args) {
  Finish<tokens>(sum, columns, scales, first_row, args);
  WithOutput(args.epilogue.output, [&](auto* type) {
    using To = std::remove_pointer_t<decltype(type)>;
    if constexpr (sizeof(To) == 2) {
      if (args.out % 2 == 0) return WritePairs<tokens, To>(sum, columns, first_row, args);
    }
    WriteSingly<tokens, To>(sum, columns, first_row, args);
  });
}

// Gives the sums of the warp's 16 columns to the blocks that add them up.
template <int tokens>
__device__ void SendTile(const float (&sum)[tokens / 2], const Parts<tokens>& parts, const Args& args) {
#pragma unroll
  for (int i = 0; i < tokens / 2; i += 4) {
    const int eight = i / 4;
    if (eight * 8 >= args.rows) break;
    const uint32_t mine = ClusterRank(), to = eight & ((1U << args.split_bits) - 1);
    const float4 four = {sum[i], sum[i + 1], sum[i + 2], sum[i + 3]};
    if (to == mine) {
      *parts.Of(mine, eight, args) = four;
    } else {
      StoreAt(parts.Of(mine, eight, args), four, parts.there, to);
    }
  }
}

// Adds up this block's rows of the tile.
template <int tokens>
__device__ void ReduceTile(const Parts<tokens>& parts, const Columns& columns, const float* scales, const Args& args) {
  AwaitStores(parts.there);
  for (int eight = static_cast<int>(ClusterRank()); eight * 8 < args.rows; eight += 1 << args.split_bits) {
    float sum[4] = {};
#pragma unroll
    for (uint32_t from = 0; from < kMaxSplit; ++from) {
      if (from >= 1U << args.split_bits) break;
      const float4 part = *parts.Of(from, eight, args);
      sum[0] += part.x, sum[1] += part.y, sum[2] += part.z, sum[3] += part.w;
    }
    WriteRows<8>(sum, columns, scales, eight * 8, args);
  }
}

// A warpgroup's way through the ring: it starts the product of one stage before it takes that of the stage before.
template <typename T, int tokens, int groups>
class Consumer {
 public:
  using Sums = float[tokens / 2];

  __device__ Consumer(Stage<tokens, groups>* ring, uint64_t* full, uint64_t* empty, int stages)
      : ring_(ring), full_(full), empty_(empty), stages_(stages) {}

  // The sums over the next `blocks` stages.
  __device__ void Sum(int blocks, Sums& sum) {
    if constexpr (kPromote) {
      Sums even, odd;
#pragma unroll
      for (int i = 0; i < tokens / 2; ++i) sum[i] = 0.0F;
      SumBy(blocks, even, odd, sum);
    } else {
      SumBy(blocks, sum, sum, sum);
    }
  }

 private:
  // The tensor cores keep few digits of sums of e4m3: those of 128 are added up in float32 outside.
  static constexpr bool kPromote = std::is_same_v<T, __nv_fp8_e4m3>;

  __device__ void SumBy(int blocks, Sums& even, Sums& odd, Sums& sum) {
    Start(even, false);
    int block = 1;
    for (; block + 1 < blocks; block += 2) {
      Start(odd, !kPromote);
      Take<1>(even, sum);
      Start(even, !kPromote);
      Take<1>(odd, sum);
    }
    if (block < blocks) {
      Start(odd, !kPromote);
      Take<1>(even, sum);
      Take<0>(odd, sum);
    } else {
      Take<0>(even, sum);
    }
  }

  __device__ void Start(Sums& part, bool add) {
    using namespace hopper;
    Await(&full_[next_], parity_);
    const uint64_t a = TileDescriptor(ring_[next_].weight[threadIdx.x / 128 * kTileRows]);
    const uint64_t b = TileDescriptor(ring_[next_].x);
    Pin(part);
    FenceProducts();
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) Multiply<T>(part, a + 2 * i, b + 2 * i, i > 0 || add);
    CommitProducts();
    if (++next_ == stages_) next_ = 0, parity_ ^= 1;
  }

  template <int running>
  __device__ void Take(Sums& part, Sums& sum) {
    hopper::AwaitProducts<running>();
    hopper::Pin(part);
    if (threadIdx.x % 32 == 0) hopper::Arrive(&empty_[oldest_]);
    if (++oldest_ == stages_) oldest_ = 0;
    if constexpr (kPromote) {
#pragma unroll
      for (int i = 0; i < tokens / 2; ++i) sum[i] += part[i];
    }
  }

  Stage<tokens, groups>* ring_;
  uint64_t *full_, *empty_;
  int stages_;
  int next_ = 0, oldest_ = 0;
  uint32_t parity_ = 0;
};

// The warpgroups' part: products, and the result.
template <typename T, int tokens, int groups, bool split>
__device__ void Consume(Stage<tokens, groups>* ring, uint64_t* full, uint64_t* empty, const Parts<tokens>& parts,
                        const float* scales, const Walk& walk, const Args& args) {
  const int thread = static_cast<int>(threadIdx.x), column = thread / 32 * 16 + thread % 32 / 4;
  Consumer<T, tokens, groups> consumer(ring, full, empty, args.stages);
  for (int tile = walk.tile; tile < args.tiles; tile += walk.tile_step) {
    const Columns columns(args, tile * groups * kTileRows + column);
    float sum[tokens / 2];
    consumer.Sum(walk.last_block - walk.first_block, sum);
    if constexpr (split) {
      SendTile(sum, parts, args);
      ReduceTile(parts, columns, scales, args);
    } else {
      WriteRows<tokens>(sum, columns, scales, 0, args);
    }
  }
}

// split: whether args.split_bits > 0; then there is one warpgroup.
template <typename T, int tokens, int groups, bool split>
__global__ void __launch_bounds__(kThreads<groups>)
    skinny_linear_kernel(const __grid_constant__ CUtensorMap weight, const __grid_constant__ CUtensorMap x,
                         const Args args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  static_assert(!split || groups == 1);
  extern __shared__ __align__(1024) uint8_t shared[];
  auto* ring = reinterpret_cast<Stage<tokens, groups>*>(shared);
  auto* full = reinterpret_cast<uint64_t*>(ring + args.stages);
  uint64_t* empty = full + args.stages;
  auto* sums = reinterpret_cast<float4*>(empty + args.stages);
  const Parts<tokens> parts = {
      .sums = sums,
      .there = reinterpret_cast<uint64_t*>(reinterpret_cast<uint8_t*>(sums) + Parts<tokens>::Bytes(args.split_bits))};
  auto* scales = reinterpret_cast<float*>(parts.there + 1);
  const int thread = static_cast<int>(threadIdx.x);
  AllowNext();
  if (thread == groups * 128) {
    hopper::PrefetchMap(weight);
    hopper::PrefetchMap(x);
    for (int i = 0; i < args.stages; ++i) {
      hopper::InitBarrier(&full[i], 1);
      hopper::InitBarrier(&empty[i], groups * 4);
    }
    hopper::FenceBarrierInit();
    if constexpr (split) ExpectStores(parts.there, parts.Expected(args));
  }
  __syncthreads();
  if constexpr (split) ClusterStart();
  const Walk walk(args);
  if (thread == groups * 128) {
    Produce<split>(ring, full, empty, weight, x, args);
  } else if constexpr (split) {
    ClusterWait();
  }
  AwaitPrevious();
  if (thread < groups * 128) {
    const bool scaled = args.epilogue.row_scale != nullptr && thread < args.rows;
    if (thread < tokens) scales[thread] = scaled ? args.epilogue.row_scale[thread] : 1.0F;
    SyncConsumers<groups>();
    Consume<T, tokens, groups, split>(ring, full, empty, parts, scales, walk, args);
  }
#endif
}

}  // namespace automodeld::skinny

#endif  // KERNELS_CUDA_SKINNY_LINEAR_KERNEL_H_
