// s = x + residual;  y = round(s / sqrt(mean(s^2) + eps)) * weight, each step rounded as in eager/rms_norm.cc.
// A block takes a row: 256 threads read 16 bytes each. Streams 4 tensors (2 without residual); the second read of the
// row comes from the nearest cache.
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

template <typename T>
struct RmsNormArgs {
  const T *x, *residual, *weight;  // residual may be null, and then sum is null and not written
  T *sum, *y;
  int64_t x_stride, residual_stride, width;
  float eps;
};

// The sum of `value` over the block, given to every thread.
__device__ float BlockSum(float value) {
  __shared__ float warps[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffU, value, offset);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
  for (float warp : warps) total += warp;
  return total;
}

// The width is a multiple of W, and every row begins on a border of W elements.
template <typename T, int W>
__global__ void rms_norm_kernel(RmsNormArgs<T> a) {
  const int64_t row = blockIdx.x;
  const T* x = a.x + row * a.x_stride;
  float squares = 0;
  for (int64_t i = threadIdx.x * W; i < a.width; i += kThreads * W) {
    Pack<T, W> s = Load<T, W>(x + i);
    if (a.residual != nullptr) {
      const Pack<T, W> r = Load<T, W>(a.residual + row * a.residual_stride + i);
      for (int j = 0; j < W; ++j) s[j] = static_cast<T>(static_cast<float>(s[j]) + static_cast<float>(r[j]));
      Store(a.sum + row * a.width + i, s);
    }
    for (int j = 0; j < W; ++j) squares += static_cast<float>(s[j]) * static_cast<float>(s[j]);
  }
  const float scale = rsqrtf(BlockSum(squares) / static_cast<float>(a.width) + a.eps);
  const T* sum = a.residual != nullptr ? a.sum + row * a.width : x;  // a thread reads what it wrote itself
  for (int64_t i = threadIdx.x * W; i < a.width; i += kThreads * W) {
    Pack<T, W> s = Load<T, W>(sum + i);
    const Pack<T, W> w = Load<T, W>(a.weight + i);
    for (int j = 0; j < W; ++j) {
      const T normal = static_cast<T>(static_cast<float>(s[j]) * scale);
      s[j] = static_cast<T>(static_cast<float>(normal) * static_cast<float>(w[j]));
    }
    Store(a.y + row * a.width + i, s);
  }
}

template <typename T>
void Launch(const RmsNormArgs<T>& a, int64_t rows) {
  constexpr int kWide = 16 / sizeof(T);
  const bool wide = Aligned16(a.x, a.weight, a.y) && (a.residual == nullptr || Aligned16(a.residual, a.sum)) &&
                    (a.width | a.x_stride | a.residual_stride) % kWide == 0;
  const auto kernel = wide ? rms_norm_kernel<T, kWide> : rms_norm_kernel<T, 1>;
  kernel<<<static_cast<unsigned>(rows), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(a);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

NormResult RmsNorm(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight, double eps,
                   bool quantize) {
  if (x.dim() != 2 || x.numel() == 0 || weight.scalar_type() != x.scalar_type())
    return eager::RmsNorm(x, residual, weight, eps, quantize);
  const int64_t rows = x.size(0), width = x.size(1);
  CheckShape("rms_norm: weight", weight, {width});
  const at::Tensor dense_x = DenseRows(x), dense_weight = weight.contiguous();
  at::Tensor y = at::empty({rows, width}, x.options()), sum = x, dense_residual;
  if (IsDefined(residual)) {
    CheckShape("rms_norm: residual", *residual, x.sizes());
    CheckType("rms_norm: residual", *residual, x.scalar_type());
    dense_residual = DenseRows(*residual);
    sum = at::empty_like(y);
  }
  const c10::DeviceGuard guard(x.device());
  DispatchFloats("rms_norm", x, [&](auto zero) {
    using T = decltype(zero);
    const bool add = dense_residual.defined();
    Launch<T>({.x = dense_x.const_data_ptr<T>(),
               .residual = add ? dense_residual.const_data_ptr<T>() : nullptr,
               .weight = dense_weight.const_data_ptr<T>(),
               .sum = add ? sum.mutable_data_ptr<T>() : nullptr,
               .y = y.mutable_data_ptr<T>(),
               .x_stride = dense_x.stride(0),
               .residual_stride = add ? dense_residual.stride(0) : 0,
               .width = width,
               .eps = static_cast<float>(eps)},
              rows);
  });
  auto [quantized, scale] = eager::QuantizeRows(y, quantize);
  return {quantized, scale, sum};
}

const bool registered = RegisterKernel(&Ops::rms_norm, at::kCUDA, FusedDtypes(), RmsNorm, RmsNormSamples);

}  // namespace
}  // namespace automodeld
