// Single instructions, to two units in the last place. What has fewer digits than others, below 2^-126, counts as zero.
#ifndef KERNELS_CUDA_APPROXIMATE_H_
#define KERNELS_CUDA_APPROXIMATE_H_

namespace automodeld {

__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float Reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_APPROXIMATE_H_
