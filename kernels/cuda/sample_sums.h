// Sums, prefix sums and histograms of a block and of a cluster: what kernels/cuda/sample.cu selects with.
#ifndef KERNELS_CUDA_SAMPLE_SUMS_H_
#define KERNELS_CUDA_SAMPLE_SUMS_H_

#include <cstdint>

#include "kernels/cuda/cluster.h"

namespace automodeld::sampling {

constexpr int kThreads = 1024, kWarps = kThreads / 32, kBuckets = kThreads, kMostBlocks = 8;
constexpr unsigned kEveryLane = 0xFFFFFFFFU;

// Of some tokens: how many, and what they weigh together.
struct Sum {
  int64_t weight;
  uint32_t tokens;
};

__device__ inline Sum operator+(const Sum& a, const Sum& b) { return {a.weight + b.weight, a.tokens + b.tokens}; }

__device__ inline Sum Shuffle(const Sum& from, int lane) {
  return {__shfl_sync(kEveryLane, from.weight, lane), __shfl_sync(kEveryLane, from.tokens, lane)};
}

__device__ inline int64_t WarpSum(int64_t value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(kEveryLane, value, offset);
  return value;
}

// Over the lanes up to this one.
__device__ inline Sum WarpScan(Sum sum) {
  const unsigned lane = threadIdx.x % 32;
  for (unsigned offset = 1; offset < 32; offset *= 2) {
    const Sum lower = {__shfl_up_sync(kEveryLane, sum.weight, offset), __shfl_up_sync(kEveryLane, sum.tokens, offset)};
    if (lane >= offset) sum = sum + lower;
  }
  return sum;
}

struct ScanResult {
  Sum before, total;  // of the threads below this one; of all
};

// Every thread of the block calls it.
__device__ inline ScanResult BlockScan(const Sum& mine) {
  __shared__ Sum warps[kWarps];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Sum inclusive = WarpScan(mine);
  if (lane == 31) warps[warp] = inclusive;
  __syncthreads();
  const Sum of_warps = WarpScan(warps[lane]);
  const Sum total = Shuffle(of_warps, 31), lower = Shuffle(of_warps, static_cast<int>((warp + 31) % 32));
  __syncthreads();  // warps may be written again
  Sum before = {inclusive.weight - mine.weight, inclusive.tokens - mine.tokens};
  if (warp > 0) before = before + lower;
  return {before, total};
}

// Tokens and weights by bucket. Atomic sums of 32 bits with a carry: those of 64 bits are loops in shared memory.
struct Histogram {
  uint32_t tokens[kBuckets], low[kBuckets], high[kBuckets];

  __device__ void Clear() { tokens[threadIdx.x] = low[threadIdx.x] = high[threadIdx.x] = 0; }

  __device__ void Add(int bucket, int64_t weight, uint32_t count = 1) {
    atomicAdd(&tokens[bucket], count);
    if (weight == 0) return;
    const auto part = static_cast<uint32_t>(weight);
    const uint32_t sum = atomicAdd(&low[bucket], part) + part;
    const uint32_t rest = static_cast<uint32_t>(weight >> 32) + (sum < part ? 1U : 0U);
    if (rest != 0) atomicAdd(&high[bucket], rest);
  }

  // This thread's bucket.
  __device__ Sum OfBlock() const {
    const uint64_t weight = uint64_t{high[threadIdx.x]} << 32 | low[threadIdx.x];
    return {static_cast<int64_t>(weight), tokens[threadIdx.x]};
  }

  // The same, summed over the cluster, whose blocks have all arrived after their last Add.
  __device__ Sum OfCluster() {
    const uint32_t blocks = ClusterSize(), mine = ClusterRank();
    Sum sum{};
#pragma unroll
    for (uint32_t i = 0; i < kMostBlocks; ++i) {
      if (i < blocks) sum = sum + Peer(this, (mine + i) % blocks)->OfBlock();
    }
    return sum;
  }
};

// The bucket in which a sum is reached, and the sum below it.
struct Crossing {
  int bucket;  // -1: all buckets together do not reach it
  Sum before, in;
};

// Where `need` weight (or tokens) is reached; bucket i is thread i's. Every thread of the block calls it.
__device__ inline Crossing FindCrossing(const Sum& bucket, const ScanResult& scan, int64_t need, bool by_tokens) {
  __shared__ Crossing found;
  if (threadIdx.x == 0) found = {-1, {}, {}};
  __syncthreads();
  const int64_t before = by_tokens ? int64_t{scan.before.tokens} : scan.before.weight;
  const int64_t in = by_tokens ? int64_t{bucket.tokens} : bucket.weight;
  if (before < need && need <= before + in) {
    found.bucket = static_cast<int>(threadIdx.x);
    found.before = scan.before;
    found.in = bucket;
  }
  __syncthreads();
  const Crossing crossing = found;
  __syncthreads();
  return crossing;
}

}  // namespace automodeld::sampling

#endif  // KERNELS_CUDA_SAMPLE_SUMS_H_
