// Floats rounded to nearest even in float32, bfloat16 or float16, CUDA's types or libtorch's.
#ifndef KERNELS_CUDA_ROUNDING_H_
#define KERNELS_CUDA_ROUNDING_H_

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

namespace automodeld {

// As one half of a conversion of two: libtorch's own conversion becomes an instruction with a fraction of its rate.
template <typename To>
__device__ To RoundTo(float value) {
  if constexpr (std::is_same_v<To, float>) return value;
  if constexpr (std::is_same_v<To, __nv_bfloat16>) return __floats2bfloat162_rn(value, 0.0F).x;
  if constexpr (std::is_same_v<To, __half>) return __floats2half2_rn(value, 0.0F).x;
  if constexpr (std::is_same_v<To, c10::BFloat16>)
    return {__bfloat16_as_ushort(RoundTo<__nv_bfloat16>(value)), c10::BFloat16::from_bits()};
  if constexpr (std::is_same_v<To, c10::Half>)
    return {__half_as_ushort(RoundTo<__half>(value)), c10::Half::from_bits()};
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_ROUNDING_H_
