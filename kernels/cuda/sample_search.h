// Where top_k and top_p end: the search for the last kept token of a row that lies in a cluster's shared memory.
#ifndef KERNELS_CUDA_SAMPLE_SEARCH_H_
#define KERNELS_CUDA_SAMPLE_SEARCH_H_

#include <cstdint>

#include "kernels/cuda/sample_row.h"

namespace automodeld::sampling {

constexpr int kRanked = kThreads / 4, kList = kThreads, kMostPieces = 512;

struct List {
  uint64_t places[kList];
  int64_t weights[kList];
  unsigned size;
};

// What is asked for a row.
struct RowParams {
  float temperature, top_p;
  int64_t top_k, least;  // top_k: 0 keeps all; least: that a kept token weighs
  double uniform;
};

struct SharedState {
  RowParams params;
  double powers[kPowers];
  Histogram histogram;
  List mine, all;  // all: in the first block
  int64_t kept[kRanked];
  int64_t piece_weights[kMostPieces];
  uint64_t best[kMostBlocks];  // by block of the cluster
  uint32_t least[kMostBlocks];
  int64_t weights[kMostBlocks];
  uint64_t warp_best[kWarps];
  uint32_t warp_least[kWarps];
  unsigned base;
  int piece;
  int64_t left;
  uint64_t last;  // from the first block
  int64_t weight;
};

// Places among which the last kept token is looked for.
struct Search {
  Places range;
  Sum before, in;  // of the places below the range; of those in it
};

// Narrows the range to a 1024th: count(shift) gives this thread's bucket, of the places from range.low + (its index <<
// shift) on. Every thread of the block calls it.
template <typename Count>
__device__ void Divide(Search& search, int64_t need, bool by_tokens, const Count& count) {
  Places& range = search.range;
  const int shift = max(0, 64 - __clzll(static_cast<int64_t>(range.high - range.low)) - 10);
  const Sum mine = count(shift);
  const int64_t missing = need - (by_tokens ? int64_t{search.before.tokens} : search.before.weight);
  const Crossing crossing = FindCrossing(mine, BlockScan(mine), missing, by_tokens);
  range.low += static_cast<uint64_t>(max(crossing.bucket, 0)) << shift;
  range.high = min(range.high, range.low + (uint64_t{1} << shift) - 1);
  search.before = search.before + crossing.before;
  search.in = crossing.in;
}

// Gathers the tokens that wanted(id, logit) says, at most kList, in the first block's list.
template <typename T, typename Wanted>
__device__ void Gather(const RowPart<T>& row, SharedState& shared, const Wanted& wanted) {
  row.ForTokens([&](uint32_t id, float logit) {
    if (!(logit >= row.lowest) || !wanted(id, logit)) return;
    const unsigned i = atomicAdd(&shared.mine.size, 1U);
    shared.mine.places[i] = row.PlaceOf(logit, id);
    shared.mine.weights[i] = row.Weight(logit);
  });
  __syncthreads();
  List& all = *Peer(&shared.all, 0);
  if (threadIdx.x == 0) shared.base = atomicAdd(&all.size, shared.mine.size);
  __syncthreads();
  if (threadIdx.x < shared.mine.size) {
    all.places[shared.base + threadIdx.x] = shared.mine.places[threadIdx.x];
    all.weights[shared.base + threadIdx.x] = shared.mine.weights[threadIdx.x];
  }
  ClusterSync();
}

// Divides among the first block's list until one place is left, and tells the cluster.
__device__ void DivideList(Search& search, SharedState& shared, int64_t need, bool by_tokens) {
  const bool listed = threadIdx.x < shared.all.size;
  const uint64_t place = listed ? shared.all.places[threadIdx.x] : 0;
  const int64_t weight = listed ? shared.all.weights[threadIdx.x] : 0;
  while (search.range.low < search.range.high) {
    Divide(search, need, by_tokens, [&](int shift) {
      shared.histogram.Clear();
      __syncthreads();
      if (listed && search.range.low <= place && place <= search.range.high) {
        shared.histogram.Add(static_cast<int>((place - search.range.low) >> shift), weight);
      }
      __syncthreads();
      return shared.histogram.OfBlock();
    });
  }
  if (threadIdx.x < ClusterSize()) {
    SharedState& peer = *Peer(&shared, threadIdx.x);
    peer.last = search.range.low;
    peer.weight = search.before.weight + search.in.weight;
  }
}

// The place of the token at which `need` is reached, which lies in the bucket `crossing`; shared.weight: of all up to
// it, if they are weighed.
template <typename T>
__device__ uint64_t FindLast(const RowPart<T>& row, SharedState& shared, const Crossing& crossing, int64_t need,
                             bool by_tokens) {
  Search search = {PlacesOf(row, crossing.bucket), crossing.before, crossing.in};
  const auto in_range = [&](uint32_t id, float logit) {
    if (row.BucketOf(logit) != crossing.bucket) return false;
    const uint64_t place = row.PlaceOf(logit, id);
    return search.range.low <= place && place <= search.range.high;
  };
  while (search.in.tokens > kList && search.range.low < search.range.high) {
    Divide(search, need, by_tokens, [&](int shift) {
      ClusterSync();  // the histogram may be written again
      shared.histogram.Clear();
      __syncthreads();
      row.Count(shared.histogram, true, [&](uint32_t id, float logit) {
        return in_range(id, logit) ? static_cast<int>((row.PlaceOf(logit, id) - search.range.low) >> shift) : -1;
      });
      ClusterSync();
      return shared.histogram.OfCluster();
    });
  }
  Gather(row, shared, in_range);
  if (ClusterRank() == 0) DivideList(search, shared, need, by_tokens);
  __syncthreads();
  if (threadIdx.x == 0) shared.mine.size = shared.all.size = 0;
  ClusterSync();
  return shared.last;
}

}  // namespace automodeld::sampling

#endif  // KERNELS_CUDA_SAMPLE_SEARCH_H_
