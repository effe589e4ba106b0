// Activations in float32, the same wherever a kernel ends with one.
#ifndef KERNELS_CUDA_ACTIVATIONS_H_
#define KERNELS_CUDA_ACTIVATIONS_H_

namespace automodeld {

// x / 2 (1 + erf(x / sqrt 2))
__device__ inline float Gelu(float x) { return 0.5F * x * (1.0F + erff(x * 0.70710678F)); }

// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
__device__ inline float GeluTanh(float x) {
  return 0.5F * x * (1.0F + tanhf(0.79788456F * (x + 0.044715F * x * x * x)));
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_ACTIVATIONS_H_
