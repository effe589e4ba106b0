// What act_mul is made of, for every kernel that has to give its bits: y = round(act(gate)) * up, with
//   silu(x) = x / (1 + e^-x);  gelu(x) = x / 2 (1 + erf(x / sqrt 2));  gelu_tanh(x) = x / 2 (1 + tanh(u)),
//   u = sqrt(2 / pi) (x + 0.044715 x^3).
#ifndef KERNELS_CUDA_GATE_MATHS_H_
#define KERNELS_CUDA_GATE_MATHS_H_

#include "kernels/cuda/launch.h"

namespace automodeld {

enum class Gate { kSilu, kGelu, kGeluTanh };

template <Gate gate>
__device__ float Opened(float x) {
  if constexpr (gate == Gate::kSilu) return __fdividef(x, 1.0F + __expf(-x));
  if constexpr (gate == Gate::kGelu) return 0.5F * x * (1.0F + erff(x * 0.70710678F));
  return 0.5F * x * (1.0F + tanhf(0.79788456F * (x + 0.044715F * x * x * x)));
}

template <Gate gate, typename T, int W>
__device__ Pack<T, W> Gated(const Pack<T, W>& x, const Pack<T, W>& up) {
  Pack<T, W> y;
#pragma unroll
  for (int j = 0; j < W; ++j) {
    const T opened = static_cast<T>(Opened<gate>(static_cast<float>(x[j])));
    y[j] = static_cast<T>(static_cast<float>(opened) * static_cast<float>(up[j]));
  }
  return y;
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_GATE_MATHS_H_
