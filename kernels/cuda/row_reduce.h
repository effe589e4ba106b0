// Sums and largest values over a block of whole warps, given to each of its threads.
//
//   __shared__ float sums[kMaxWarps];
//   const float total = BlockSum(mine, sums);  // each reduction of a kernel has an array of its own
#ifndef KERNELS_CUDA_ROW_REDUCE_H_
#define KERNELS_CUDA_ROW_REDUCE_H_

#include <cuda_runtime.h>

namespace automodeld {

inline constexpr int kWarp = 32, kMaxWarps = 32;
inline constexpr unsigned kAllLanes = 0xffffffffU;

__device__ inline float WarpSum(float value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

// Of values that are not negative; NaN if one is. Their bits are in the values' order, NaN beyond infinity.
__device__ inline float WarpMax(float value) {
  unsigned bits = __float_as_uint(value);
#if __CUDA_ARCH__ >= 800
  bits = __reduce_max_sync(kAllLanes, bits);
#else
  for (int offset = kWarp / 2; offset > 0; offset /= 2) bits = max(bits, __shfl_xor_sync(kAllLanes, bits, offset));
#endif
  return __uint_as_float(bits);
}

// Reduces over a warp, then over what the warps have found; 0 must change nothing.
template <typename Reduce>
__device__ float OverBlock(float value, float* warps, Reduce reduce) {
  value = reduce(value);
  if (blockDim.x == kWarp) return value;
  const unsigned lane = threadIdx.x % kWarp;
  if (lane == 0) warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  return reduce(lane < blockDim.x / kWarp ? warps[lane] : 0.0F);
}

__device__ inline float BlockSum(float value, float* warps) {
  return OverBlock(value, warps, [](float v) { return WarpSum(v); });
}

__device__ inline float BlockMax(float value, float* warps) {
  return OverBlock(value, warps, [](float v) { return WarpMax(v); });
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_ROW_REDUCE_H_
