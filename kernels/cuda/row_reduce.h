// Sums and largest values over a block of whole warps, given to each of its threads.
//
//   __shared__ float sums[kMaxWarps];
//   const float total = BlockSum(mine, sums);  // each reduction of a kernel has an array of its own
#ifndef KERNELS_CUDA_ROW_REDUCE_H_
#define KERNELS_CUDA_ROW_REDUCE_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace automodeld {

inline constexpr int kWarp = 32, kMaxWarps = 32;
inline constexpr unsigned kAllLanes = 0xffffffffU;

__device__ inline float WarpSum(float value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

__device__ inline uint32_t WarpMax(uint32_t value) {
#if __CUDA_ARCH__ >= 800
  return __reduce_max_sync(kAllLanes, value);
#else
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value = max(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
#endif
}

// Reduces over a warp, then over what the warps have found; 0 must change nothing.
template <typename Value, typename Reduce>
__device__ Value OverBlock(Value value, Value* warps, Reduce reduce) {
  value = reduce(value);
  if (blockDim.x == kWarp) return value;
  const unsigned lane = threadIdx.x % kWarp;
  if (lane == 0) warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  return reduce(lane < blockDim.x / kWarp ? warps[lane] : Value{0});
}

__device__ inline float BlockSum(float value, float* warps) {
  return OverBlock(value, warps, [](float v) { return WarpSum(v); });
}

__device__ inline uint32_t BlockMax(uint32_t value, uint32_t* warps) {
  return OverBlock(value, warps, [](uint32_t v) { return WarpMax(v); });
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_ROW_REDUCE_H_
