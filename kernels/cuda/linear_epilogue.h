// What becomes of a product's sums: y = act(sum * row_scale * column_scale + bias), rounded to y's type.
#ifndef KERNELS_CUDA_LINEAR_EPILOGUE_H_
#define KERNELS_CUDA_LINEAR_EPILOGUE_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/rounding.h"

namespace automodeld {

struct LinearEpilogue {
  enum class Output { kFloat, kBFloat16, kHalf };
  enum class Activation { kNone, kRelu, kSilu, kGelu, kGeluTanh };

  void* y;                    // [rows, out] of `output`, dense
  const float* row_scale;     // [rows], or null
  const float* column_scale;  // [out], or null
  const void* bias;           // [out] of `output`, or null
  Output output;
  Activation activation;
};

__device__ inline float Activate(float x, LinearEpilogue::Activation activation) {
  switch (activation) {
    case LinearEpilogue::Activation::kRelu:
      return x < 0.0F ? 0.0F : x;
    case LinearEpilogue::Activation::kSilu:
      return x / (1.0F + expf(-x));
    case LinearEpilogue::Activation::kGelu:
      return Gelu(x);
    case LinearEpilogue::Activation::kGeluTanh:
      return GeluTanh(x);
    default:
      return x;
  }
}

// Calls visit(a null pointer of the output's type).
template <typename Visit>
__device__ void WithOutput(LinearEpilogue::Output output, Visit visit) {
  if (output == LinearEpilogue::Output::kBFloat16) return visit(static_cast<__nv_bfloat16*>(nullptr));
  if (output == LinearEpilogue::Output::kHalf) return visit(static_cast<__half*>(nullptr));
  visit(static_cast<float*>(nullptr));
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_LINEAR_EPILOGUE_H_
