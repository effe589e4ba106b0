// A row in float8_e4m3fn on the device, with the bits that eager::QuantizeRows gives: scale = max |y| / 448, at least
// 1e-12; value = y / scale, rounded to nearest even. A NaN, or an infinity, makes the row's scale one.
//
//   uint32_t largest = 0;
//   for (...) largest = Larger(largest, y[i]);
//   const RowScale scale(BlockMax(largest, warps));
//   Store(values + i, scale.Quantized(y));
#ifndef KERNELS_CUDA_ROW_QUANTIZE_H_
#define KERNELS_CUDA_ROW_QUANTIZE_H_

#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/cuda/launch.h"

namespace automodeld {

// The bits of |y| grow with |y|, infinity is beyond every number and NaN beyond infinity.
template <typename T>
__device__ uint32_t Larger(uint32_t bits, T y) {
  return max(bits, __float_as_uint(static_cast<float>(y)) & 0x7fffffffU);
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
  __device__ explicit RowScale(uint32_t largest_bits) {
    constexpr float kLargestE4m3 = 448.0F, kMinScale = 1e-12F;
    const float scale = __fdiv_rn(__uint_as_float(largest_bits), kLargestE4m3);
    scale_ = scale < kMinScale ? kMinScale : scale;
    inverse_ = __frcp_rn(scale_);
    finite_ = isfinite(scale_);
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
  // y / scale, rounded as a division is: with the reciprocal rounded right, what a quotient within one unit leaves over
  // gives the right one (Markstein 1990). The sign is that of a zero.
  __device__ float Quotient(float y) const {
    if (!finite_) return __fdiv_rn(y, scale_);
    float quotient = y * inverse_;
    for (int step = 0; step < 2; ++step) {
      quotient = __fmaf_rn(__fmaf_rn(-scale_, quotient, y), inverse_, quotient);
    }
    return copysignf(quotient, y);
  }

  float scale_, inverse_;
  bool finite_;
};

}  // namespace automodeld

#endif  // KERNELS_CUDA_ROW_QUANTIZE_H_
