// kernels/sampling.h without a sort of the row. A cluster of 1 to 8 blocks reads a row once, into shared memory.
//
// Greedy rows end with the largest logit. For top_k and top_p tokens are counted, and weighed, in 1024 buckets by their
// distance from the largest logit. Where few lie up to the bucket in which the kept ones end, those few are ranked one
// by one. Else the bucket is divided by place (logit, then id) until a single token is left: the last kept one. The
// draw looks for the block, the piece of 256 tokens and the token at which the running sum passes it.
//
// Roofline: one read of the logits, and an exp in double for each that weighs anything.
#include <ATen/cuda/CUDAContext.h>
#include <fmt/format.h>

#include "kernels/cuda/sample_search.h"
#include "kernels/dispatch.h"
#include "kernels/eager/eager.h"
#include "kernels/op_samples.h"
#include "kernels/philox.h"
#include "kernels/registry.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

using namespace sampling;

constexpr size_t kMostBytes = 160 * 1024;  // of logits in one block
constexpr uint64_t kEveryPlace = ~uint64_t{0};

template <typename T>
struct SampleArgs {
  const T* logits;
  int64_t stride;
  int vocab, pieces;  // pieces: of one block
  bool wide;          // rows can be read 8 logits at a time
  const float *temperature, *top_p, *min_p;
  const int64_t *top_k, *seeds, *positions;
  int64_t* tokens;
};

constexpr size_t kStateBytes = (sizeof(SharedState) + 31) / 32 * 32;  // the logits follow

__device__ int64_t Reach(double share, int64_t weight) {
  return max(int64_t{1}, static_cast<int64_t>(ceil(share * static_cast<double>(weight))));
}

// What is left to pass when tokens that weigh `total` are drawn from.
__device__ int64_t DrawFrom(int64_t total, double uniform) {
  return min(static_cast<int64_t>(floor(uniform * static_cast<double>(total))), total - 1);
}

// Copies this block's logits to shared memory. `best`: the key of the largest and, inverted, its first id; `least`: the
// lowest key of a finite logit.
template <typename T, int W>
__device__ void ReadLogits(const T* logits, int count, int capacity, uint32_t first, T* values, uint64_t& best,
                           uint32_t& least) {
  uint32_t best_key = 0, best_id = 0;
  for (int i = static_cast<int>(threadIdx.x) * W; i < capacity; i += kThreads * W) {
    Pack<T, W> pack;
    if (i + W <= count) {
      pack = Load<T, W>(logits + i);
    } else {
      for (int j = 0; j < W; ++j) pack[j] = i + j < count ? logits[i + j] : static_cast<T>(-INFINITY);
    }
    Store(values + i, pack);
    for (int j = 0; j < W; ++j) {
      const uint32_t key = KeyOf(static_cast<float>(pack[j]));
      if (key > kLowestKey) least = min(least, key);
      if (key <= best_key) continue;
      best_key = key;
      best_id = first + static_cast<uint32_t>(i + j);
    }
  }
  best = uint64_t{best_key} << 32 | ~best_id;
}

// Of the cluster. Its blocks have passed ClusterStart, and not yet ClusterWait.
__device__ void FindExtremes(SharedState& shared, uint64_t& best, uint32_t& least) {
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, blocks = ClusterSize();
  const auto of_warp = [&] {
    for (int offset = 16; offset > 0; offset /= 2) best = max(best, __shfl_xor_sync(kEveryLane, best, offset));
    least = __reduce_min_sync(kEveryLane, least);
  };
  of_warp();
  if (lane == 0) {
    shared.warp_best[warp] = best;
    shared.warp_least[warp] = least;
  }
  __syncthreads();
  best = shared.warp_best[lane];
  least = shared.warp_least[lane];
  of_warp();
  ClusterWait();
  if (threadIdx.x < blocks) {
    Peer(shared.best, threadIdx.x)[ClusterRank()] = best;
    Peer(shared.least, threadIdx.x)[ClusterRank()] = least;
  }
  ClusterSync();
  for (unsigned i = 0; i < blocks; ++i) {
    best = max(best, shared.best[i]);
    least = min(least, shared.least[i]);
  }
}

// What top_k and top_p leave of a row.
struct Cut {
  uint64_t last = kEveryPlace;  // the place of the last kept token
  bool listed = false;          // or: the kept ones are in the first block's list, and some others
  int64_t top_k = 0;            // of a list: 0: all are in
  int64_t weight = 0;           // of the row, where all are in
};

// The sum over the list's entries that `below` says lie below this thread's; four threads share an entry.
template <typename Below>
__device__ Sum SumBelow(const List& list, const int64_t* weights, const Below& below) {
  Sum sum{};
  for (unsigned i = threadIdx.x % 4; i < list.size; i += 4) {
    if (below(list.places[i])) sum = sum + Sum{weights[i], 1};
  }
  for (int offset = 1; offset < 4; offset *= 2) {
    sum = sum + Sum{__shfl_xor_sync(kEveryLane, sum.weight, offset), __shfl_xor_sync(kEveryLane, sum.tokens, offset)};
  }
  return sum;
}

// Filters the first block's list and draws from it; gives the token to the one thread that has found it, else -1.
__device__ int64_t DrawFromList(SharedState& shared, const Cut& cut, uint32_t best) {
  constexpr uint64_t kIds = (uint64_t{1} << kIdBits) - 1;
  const List& list = shared.all;
  const unsigned entry = threadIdx.x / 4;
  const bool counts = entry < list.size && threadIdx.x % 4 == 0;
  const uint64_t place = entry < list.size ? list.places[entry] : kEveryPlace;
  const int64_t weight = entry < list.size ? list.weights[entry] : 0;
  const Sum before = SumBelow(list, list.weights, [place](uint64_t other) { return other < place; });
  const bool in_k = cut.top_k == 0 || int64_t{before.tokens} < cut.top_k;
  const int64_t first_k = BlockScan({counts && in_k ? weight : 0, 0}).total.weight;
  const int64_t sum_k = cut.top_k == 0 ? cut.weight : first_k;
  const RowParams& params = shared.params;
  const bool in_p = params.top_p >= 1.0F || before.weight < Reach(params.top_p, sum_k);
  const int64_t kept = in_k && in_p && weight >= params.least ? weight : 0;
  if (counts) shared.kept[entry] = kept;
  const int64_t total = BlockScan({counts ? kept : 0, 0}).total.weight;  // and everybody has written `kept`
  if (total <= 0) return threadIdx.x == 0 ? int64_t{best} : -1;
  const uint64_t id = place & kIds;
  const int64_t running = SumBelow(list, shared.kept, [id](uint64_t other) { return (other & kIds) < id; }).weight;
  const int64_t target = DrawFrom(total, shared.params.uniform);
  return counts && running <= target && target < running + kept ? static_cast<int64_t>(id) : -1;
}

// Draws from the tokens up to the place `last`; the result as of DrawFromList.
template <typename T>
__device__ int64_t DrawFromRow(const RowPart<T>& row, SharedState& shared, uint64_t last) {
  const int64_t least = shared.params.least;
  const auto kept = [&](uint32_t id, float logit) -> int64_t {
    if (!(logit >= row.lowest) || (last != kEveryPlace && row.PlaceOf(logit, id) > last)) return 0;
    const int64_t weight = row.Weight(logit);
    return weight >= least ? weight : 0;
  };
  row.ForPieces([&](int piece, uint32_t id, const Pack<T, kLoad>& logits) {
    int64_t sum = 0;
#pragma unroll
    for (int i = 0; i < kLoad; ++i) sum += kept(id + static_cast<uint32_t>(i), static_cast<float>(logits[i]));
    sum = WarpSum(sum);
    if (threadIdx.x % 32 == 0) shared.piece_weights[piece] = sum;
  });
  __syncthreads();
  const auto thread = static_cast<int>(threadIdx.x);
  const int64_t piece_weight = thread < row.pieces ? shared.piece_weights[thread] : 0;
  const ScanResult pieces = BlockScan({piece_weight, 0});
  if (threadIdx.x < ClusterSize()) Peer(shared.weights, threadIdx.x)[ClusterRank()] = pieces.total.weight;
  ClusterSync();
  int64_t total = 0, lower = 0;
  for (unsigned i = 0; i < ClusterSize(); ++i) {
    if (i == ClusterRank()) lower = total;
    total += shared.weights[i];
  }
  if (total <= 0) return ClusterRank() == 0 && thread == 0 ? int64_t{row.best} : -1;
  const int64_t target = DrawFrom(total, shared.params.uniform) - lower;
  if (target < 0 || target >= pieces.total.weight) return -1;  // another block's
  if (pieces.before.weight <= target && target < pieces.before.weight + piece_weight) {
    shared.piece = thread;
    shared.left = target - pieces.before.weight;
  }
  __syncthreads();
  const int at = shared.piece * kPiece + thread;
  const uint32_t id = row.first + static_cast<uint32_t>(at);
  const int64_t weight = thread < kPiece ? kept(id, static_cast<float>(row.values[at])) : 0;
  const int64_t before = BlockScan({weight, 0}).before.weight;
  return before <= shared.left && shared.left < before + weight ? int64_t{id} : -1;
}

// Most kept tokens lie within kNear temperatures of the largest logit: the buckets divide those first.
template <typename T>
__device__ Cut FindCut(RowPart<T>& row, SharedState& shared) {
  constexpr double kNear = 12;
  const float top_p = shared.params.top_p;
  const int64_t top_k = shared.params.top_k;
  Sum mine{};
  ScanResult scan{};
  const auto count = [&](bool weigh) {
    row.Count(shared.histogram, weigh, [&](uint32_t, float logit) { return row.BucketOf(logit); });
    ClusterSync();
    mine = shared.histogram.OfCluster();
    scan = BlockScan(mine);
  };
  const auto count_again = [&](double temperatures, bool weigh) {
    row.SetBuckets(temperatures);
    ClusterSync();  // the histogram may be written again
    shared.histogram.Clear();
    __syncthreads();
    count(weigh);
  };
  const bool by_p = top_p < 1.0F, narrow = row.SetBuckets(1.5 * kNear) && row.SetBuckets(kNear);
  bool weighed = top_k == 0 || (by_p && top_k > kRanked);  // the first few can be weighed when they are listed
  count(weighed);
  const bool by_k = top_k > 0 && top_k < int64_t{scan.total.tokens};
  if (!by_k && !by_p) return {};
  if (!by_k && !weighed) count_again(-kLowestExponent, weighed = true);
  int64_t need = by_k ? top_k : Reach(top_p, scan.total.weight);
  Crossing crossing = FindCrossing(mine, scan, need, by_k);
  const auto few = [&] { return crossing.before.tokens + crossing.in.tokens <= kRanked; };
  if (narrow && crossing.bucket == kBuckets - 1 && !few()) {
    count_again(-kLowestExponent, weighed);
    crossing = FindCrossing(mine, scan, need, by_k);
  }
  if (few()) {
    Gather(row, shared, [&](uint32_t, float logit) { return row.BucketOf(logit) <= crossing.bucket; });
    return {.listed = true, .top_k = by_k ? top_k : 0, .weight = scan.total.weight};
  }
  if (by_k && by_p && !weighed) {
    count_again(-kLowestExponent, true);
    crossing = FindCrossing(mine, scan, need, by_k);
  }
  const uint64_t last = FindLast(row, shared, crossing, need, by_k);
  if (!by_k || !by_p) return {.last = last};
  need = Reach(top_p, shared.weight);
  return {.last = FindLast(row, shared, FindCrossing(mine, scan, need, false), need, false)};
}

// The token of a row whose largest logit is finite, in one thread of the cluster; -1 in the others.
template <typename T>
__device__ int64_t Draw(RowPart<T>& row, SharedState& shared) {
  const bool cuts = shared.params.top_k > 0 || shared.params.top_p < 1.0F;
  const Cut cut = cuts ? FindCut(row, shared) : Cut{};
  if (!cut.listed) return DrawFromRow(row, shared, cut.last);
  return ClusterRank() > 0 ? -1 : DrawFromList(shared, cut, row.best);
}

// As they were given.
struct GivenParams {
  float temperature, top_p, min_p;
  int64_t top_k, seed, position;

  __device__ RowParams Resolve(int vocab) const {
    const PhiloxWords words = Philox(static_cast<uint64_t>(seed), static_cast<uint64_t>(position));
    return {.temperature = temperature,
            .top_p = top_p,
            .top_k = top_k > 0 && top_k < vocab ? top_k : 0,
            .least = max(int64_t{1}, static_cast<int64_t>(ceil(min_p * kWeightOne))),
            .uniform = UniformDouble(words)};
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 1) sample_kernel(SampleArgs<T> a) {
  extern __shared__ __align__(32) unsigned char memory[];
  SharedState& shared = *reinterpret_cast<SharedState*>(memory);
  T* values = reinterpret_cast<T*>(memory + kStateBytes);
  shared.histogram.Clear();
  if (threadIdx.x < kPowers) shared.powers[threadIdx.x] = exp2(static_cast<double>(threadIdx.x) / kPowers);
  if (threadIdx.x == 0) shared.mine.size = shared.all.size = 0;
  ClusterStart();
  AllowNext();
  AwaitPrevious();
  const int64_t index = blockIdx.x / ClusterSize();
  const int capacity = a.pieces * kPiece, begin = static_cast<int>(ClusterRank()) * capacity;
  const T* logits = a.logits + index * a.stride + begin;
  const GivenParams given = {a.temperature[index], a.top_p[index], a.min_p[index],
                             a.top_k[index],       a.seeds[index], a.positions[index]};
  uint64_t best = 0;
  uint32_t least = 0xFFFFFFFFU;
  if (a.wide) {
    ReadLogits<T, kLoad>(logits, a.vocab - begin, capacity, static_cast<uint32_t>(begin), values, best, least);
  } else {
    ReadLogits<T, 1>(logits, a.vocab - begin, capacity, static_cast<uint32_t>(begin), values, best, least);
  }
  if (threadIdx.x == kThreads - 1) shared.params = given.Resolve(a.vocab);
  FindExtremes(shared, best, least);
  RowPart<T> row{};
  row.values = values;
  row.pieces = a.pieces;
  row.first = static_cast<uint32_t>(begin);
  row.best = ~static_cast<uint32_t>(best);
  row.largest = LogitOf(static_cast<uint32_t>(best >> 32));
  row.least = LogitOf(least);
  if (!(shared.params.temperature > 0) || !isfinite(row.largest)) {  // a NaN or an infinity has no weights
    if (threadIdx.x == 0 && ClusterRank() == 0) a.tokens[index] = row.best;
    return;
  }
  row.powers = shared.powers;
  row.SetTemperature(shared.params.temperature);
  const int64_t token = Draw(row, shared);
  if (token >= 0) a.tokens[index] = token;
}

// Blocks of a cluster: as many as run at the same time, and enough for the row to fit. Clusters lie within groups of
// 16 or 18 multiprocessors, so that some are left over.
template <typename T>
int BlocksPerRow(int64_t rows, int64_t vocab) {
  const auto bytes = [vocab](int blocks) { return static_cast<size_t>((vocab + blocks - 1) / blocks) * sizeof(T); };
  const int multiprocessors = at::cuda::getCurrentDeviceProperties()->multiProcessorCount;
  int blocks = kMostBlocks;
  while (blocks > 1 && ((rows + 2) * blocks > multiprocessors || vocab < 1024 * blocks) &&
         bytes(blocks / 2) <= kMostBytes) {
    blocks /= 2;
  }
  return blocks;
}

template <typename T>
void Launch(SampleArgs<T> a, int64_t rows) {
  const int blocks = BlocksPerRow<T>(rows, a.vocab);
  a.pieces = (a.vocab + blocks * kPiece - 1) / (blocks * kPiece);
  a.wide = (reinterpret_cast<uintptr_t>(a.logits) % (kLoad * sizeof(T))) == 0 && a.stride % kLoad == 0;
  const auto grid = static_cast<unsigned>(rows * blocks);
  AllowSharedBytes(sample_kernel<T>, kStateBytes + kMostBytes + kPiece * sizeof(T));
  LaunchClusters(sample_kernel<T>, static_cast<unsigned>(blocks), grid, kThreads,
                 kStateBytes + static_cast<size_t>(a.pieces) * kPiece * sizeof(T), a);
}

template <typename T>
const T* Column(const char* what, at::Tensor& x, int64_t rows) {
  CheckShape(what, x, {rows});
  CheckType(what, x, c10::CppTypeToScalarType<T>::value);
  x = x.contiguous();
  return x.const_data_ptr<T>();
}

at::Tensor Sample(const at::Tensor& logits, at::Tensor temperature, at::Tensor top_k, at::Tensor top_p,
                  at::Tensor min_p, at::Tensor seeds, at::Tensor positions) {
  TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0, "sample: logits have shape ", logits.sizes(),
              ", expected [rows, vocab]");
  const c10::DeviceGuard guard(logits.device());
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  if (rows == 0 || vocab > (int64_t{1} << kIdBits)) {
    return eager::Sample(logits, temperature, top_k, top_p, min_p, seeds, positions);
  }
  const at::Tensor dense = DenseRows(logits);
  at::Tensor tokens = at::empty({rows}, logits.options().dtype(at::kLong));
  DispatchFloats("sample", logits, [&](auto zero) {
    using T = decltype(zero);
    Launch<T>({.logits = dense.const_data_ptr<T>(),
               .stride = dense.stride(0),
               .vocab = static_cast<int>(vocab),
               .pieces = 0,
               .wide = false,
               .temperature = Column<float>("sample: temperature", temperature, rows),
               .top_p = Column<float>("sample: top_p", top_p, rows),
               .min_p = Column<float>("sample: min_p", min_p, rows),
               .top_k = Column<int64_t>("sample: top_k", top_k, rows),
               .seeds = Column<int64_t>("sample: seeds", seeds, rows),
               .positions = Column<int64_t>("sample: positions", positions, rows),
               .tokens = tokens.mutable_data_ptr<int64_t>()},
              rows);
  });
  return tokens;
}

std::string WhyNot(at::Device device) {
  const c10::DeviceGuard guard(device);
  if (HasHopperLaunches()) return "";
  return fmt::format("it takes code for compute capability 9.0, this device runs code for {:.1f}",
                     CodeCapability() / 10.0);
}

const bool registered = RegisterKernel(&Ops::sample, at::kCUDA, FusedDtypes(), Sample, SampleSamples, WhyNot);

}  // namespace
}  // namespace automodeld
