// What a row's RMS norm is made of, for every kernel that has to give rms_norm's bits: s = x + residual;
// y = round(s / sqrt(mean(s^2) + eps)) * weight. Of widths in eights, row_norm.h adds up s^2 so: thread t of
// NormThreads takes packs of eight t, t + kNormThreads, ..., a warp's sums are added by WarpSum, and so are the warps'.
#ifndef KERNELS_CUDA_NORM_MATHS_H_
#define KERNELS_CUDA_NORM_MATHS_H_

#include "kernels/cuda/row_reduce.h"

namespace automodeld {

inline constexpr int kNormThreads = 512;
inline constexpr int kMaxNormFolds = 4;  // packs of eight of a thread; wider rows are added up otherwise

// Of a block that norms a row of so many packs.
__host__ __device__ constexpr int NormThreads(int packs) {
  return packs < kNormThreads ? (packs + kWarp - 1) / kWarp * kWarp : kNormThreads;
}

template <typename T>
__device__ T Added(T x, T residual) {
  return static_cast<T>(static_cast<float>(x) + static_cast<float>(residual));
}

// scale: one over the root of the mean square.
template <typename T>
__device__ T RmsNormed(float s, float scale, T weight) {
  return static_cast<T>(static_cast<float>(static_cast<T>(s * scale)) * static_cast<float>(weight));
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_NORM_MATHS_H_
