// y = round(act(gate)) * up, with
//   silu(x) = x / (1 + e^-x);  gelu(x) = x / 2 (1 + erf(x / sqrt 2));  gelu_tanh(x) = x / 2 (1 + tanh(u)),
//   u = sqrt(2 / pi) (x + 0.044715 x^3).
// A thread takes 16 bytes of gate and of up. Streams three halves of gate_up's size.
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/cuda/launch.h"
#include "kernels/dispatch.h"
#include "kernels/eager/eager.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

constexpr int kThreads = 256;

enum class Activation { kSilu, kGelu, kGeluTanh };

template <Activation activation>
__device__ float Activate(float x) {
  if constexpr (activation == Activation::kSilu) return x / (1.0F + expf(-x));
  if constexpr (activation == Activation::kGelu) return 0.5F * x * (1.0F + erff(x * 0.70710678F));
  return 0.5F * x * (1.0F + tanhf(0.79788456F * (x + 0.044715F * x * x * x)));
}

// n is a multiple of W, and gate and up begin on borders of W elements.
template <typename T, int W, Activation activation>
__global__ void act_mul_kernel(const T* gate_up, int64_t stride, T* y, int64_t rows, int64_t n) {
  const int64_t i = (blockIdx.x * int64_t{kThreads} + threadIdx.x) * W;
  if (i >= rows * n) return;
  const T* gate = gate_up + i / n * stride + i % n;
  Pack<T, W> a = Load<T, W>(gate);
  const Pack<T, W> up = Load<T, W>(gate + n);
  for (int j = 0; j < W; ++j) {
    const T activated = static_cast<T>(Activate<activation>(static_cast<float>(a[j])));
    a[j] = static_cast<T>(static_cast<float>(activated) * static_cast<float>(up[j]));
  }
  Store(y + i, a);
}

template <Activation activation>
void Launch(const at::Tensor& gate_up, at::Tensor& y) {
  DispatchFloats("act_mul", gate_up, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kWide = 16 / sizeof(T);
    const T* from = gate_up.const_data_ptr<T>();
    T* to = y.mutable_data_ptr<T>();
    const int64_t n = y.size(1), stride = gate_up.stride(0);
    const bool wide = Aligned16(from, to) && (n | stride) % kWide == 0;
    const int64_t threads = y.numel() / (wide ? kWide : 1);
    const auto blocks = static_cast<unsigned>((threads + kThreads - 1) / kThreads);
    const auto kernel = wide ? act_mul_kernel<T, kWide, activation> : act_mul_kernel<T, 1, activation>;
    kernel<<<blocks, kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(from, stride, to, y.size(0), n);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

std::tuple<at::Tensor, at::Tensor> ActMul(const at::Tensor& gate_up, const std::string& activation, bool quantize) {
  if (gate_up.dim() != 2 || gate_up.numel() == 0) return eager::ActMul(gate_up, activation, quantize);
  TORCH_CHECK(gate_up.size(1) % 2 == 0, "act_mul: gate_up has ", gate_up.size(1), " columns, expected an even number");
  const at::Tensor rows = DenseRows(gate_up);
  at::Tensor y = at::empty({gate_up.size(0), gate_up.size(1) / 2}, gate_up.options());
  const c10::DeviceGuard guard(gate_up.device());
  if (activation == "silu") {
    Launch<Activation::kSilu>(rows, y);
  } else if (activation == "gelu") {
    Launch<Activation::kGelu>(rows, y);
  } else if (activation == "gelu_tanh") {
    Launch<Activation::kGeluTanh>(rows, y);
  } else {
    TORCH_CHECK(false, "act_mul: activation '", activation, "' is none of silu, gelu, gelu_tanh");
  }
  return eager::QuantizeRows(y, quantize);
}

const bool registered = RegisterKernel(&Ops::act_mul, at::kCUDA, FusedDtypes(), ActMul, ActMulSamples);

}  // namespace
}  // namespace automodeld
