// A row in float8_e4m3fn on the device, with the bits that eager::QuantizeRows gives: scale = max |y| / 448, at least
// 1e-12; value = y / scale, rounded to nearest even. A NaN, or an infinity, makes the row's scale one.
//
//   float largest = 0;
//   for (...) largest = Larger(largest, y[i]);
//   const RowScale scale(BlockMax(largest, warps));
//   Store(values + i, scale.Quantized(y));
#ifndef KERNELS_CUDA_ROW_QUANTIZE_H_
#define KERNELS_CUDA_ROW_QUANTIZE_H_

#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/cuda/launch.h"

namespace automodeld {

// The larger of `largest` and |y|; NaN if one of them is.
template <typename T>
__device__ float Larger(float largest, T y) {
#if __CUDA_ARCH__ >= 800
  float larger = 0;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(largest), "f"(fabsf(static_cast<float>(y))));
  return larger;
#else
  const float size = fabsf(static_cast<float>(y));
  return largest >= size || isnan(largest) ? largest : size;
#endif
}

// Rounded to nearest even, beyond +-448 (infinities too) 448, NaN as NaN.
template <int W>
__device__ Pack<uint8_t, W> ToE4m3(const Pack<float, W>& x) {
  Pack<uint8_t, W> values;
  if constexpr (W == 1) {
    values[0] = __nv_cvt_float_to_fp8(x[0], __NV_SATFINITE, __NV_E4M3);
  } else {
#pragma unroll
    for (int j = 0; j < W; j += 2) {
      const __nv_fp8x2_storage_t two = __nv_cvt_float2_to_fp8x2({x[j], x[j + 1]}, __NV_SATFINITE, __NV_E4M3);
      values[j] = static_cast<uint8_t>(two & 0xff);
      values[j + 1] = static_cast<uint8_t>(two >> 8);
    }
  }
  return values;
}

class RowScale {
 public:
  __device__ explicit RowScale(float largest) {
    constexpr float kLargestE4m3 = 448.0F, kMinScale = 1e-12F;
    const float scale = __fdiv_rn(largest, kLargestE4m3);
    scale_ = scale < kMinScale ? kMinScale : scale;
    inverse_ = __frcp_rn(scale_);
    divisor_ = isinf(scale_) ? 0.0F : scale_;
  }

  __device__ float scale() const { return scale_; }

  template <typename T, int W>
  __device__ Pack<uint8_t, W> Quantized(const Pack<T, W>& y) const {
    Pack<float, W> quotients;
#pragma unroll
    for (int j = 0; j < W; ++j) quotients[j] = Quotient(static_cast<float>(y[j]));
    return ToE4m3(quotients);
  }

 private:
  // What y / scale rounds to in e4m3 is what this does: the product with the rounded reciprocal, less what it is off,
  // is within 2^-22 of a unit in the last place of the exact quotient before it is rounded, and no exact quotient lies
  // as near to the float beside the middle of two e4m3 numbers. Zeros keep their signs; an infinite scale makes numbers
  // zeros and infinities NaN.
  __device__ float Quotient(float y) const {
    const float quotient = y * inverse_;
    const float off = __fmaf_rn(divisor_, quotient, -y);
    return __fmaf_rn(-off, inverse_, quotient);
  }

  float scale_, inverse_, divisor_;
};

}  // namespace automodeld

#endif  // KERNELS_CUDA_ROW_QUANTIZE_H_
