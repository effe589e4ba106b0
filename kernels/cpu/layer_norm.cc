// s = x + residual;  y = (s - mean(s)) / sqrt(var(s) + eps) * weight + bias, in float32 but for s.
// The row stays in the nearest cache between the three loops. Streams 4 (with residual) or 2 tensors.
#include <cmath>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/dispatch.h"
#include "kernels/eager/eager.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

template <typename T>
struct LayerNormArgs {
  const T *x, *residual, *weight, *bias;  // residual may be null, and then sum is null and not written
  T *sum, *y;
  int64_t x_stride, residual_stride, width;
  float eps;
};

template <typename T>
struct LayerNormRows {
  // Writes x + residual to sum; gives the total.
  template <int W>
  AUTOMODELD_INLINE static float Add(const T* x, const T* residual, T* sum, int64_t width) {
    Floats<W> total = {};
    for (int64_t i = 0; i < width; i += W) {
      Floats<W> s = LoadPart<W>(x + i, width - i);
      if (residual != nullptr) {
        s = RoundTo<W, T>(s + LoadPart<W>(residual + i, width - i));
        StorePart<W>(sum + i, s, width - i);
      }
      total += s;
    }
    return Sum<W>(total);
  }

  template <int W>
  AUTOMODELD_INLINE static float SquaredDistance(const T* x, float mean, int64_t width) {
    Floats<W> squares = {};
    int64_t i = 0;
    for (; i + W <= width; i += W) {
      const Floats<W> distance = Load<W>(x + i) - mean;
      squares += distance * distance;
    }
    float sum = Sum<W>(squares);
    for (; i < width; ++i) {
      const float distance = static_cast<float>(x[i]) - mean;
      sum += distance * distance;
    }
    return sum;
  }

  template <int W>
  AUTOMODELD_INLINE static void Run(const LayerNormArgs<T>* args, int64_t begin, int64_t end) {
    const LayerNormArgs<T> a = *args;
    const auto count = static_cast<float>(a.width);
    for (int64_t row = begin; row < end; ++row) {
      const T* x = a.x + row * a.x_stride;
      const bool add = a.residual != nullptr;
      T* sum = add ? a.sum + row * a.width : nullptr;
      const float mean = Add<W>(x, add ? a.residual + row * a.residual_stride : nullptr, sum, a.width) / count;
      if (add) x = sum;
      const float scale = 1.0f / std::sqrt(SquaredDistance<W>(x, mean, a.width) / count + a.eps);
      T* y = a.y + row * a.width;
      for (int64_t i = 0; i < a.width; i += W) {
        const int64_t left = a.width - i;
        const Floats<W> normal = (LoadPart<W>(x + i, left) - mean) * scale;
        StorePart<W>(y + i, normal * LoadPart<W>(a.weight + i, left) + LoadPart<W>(a.bias + i, left), left);
      }
    }
  }
};

NormResult LayerNorm(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight,
                     const at::Tensor& bias, double eps, bool quantize) {
  const bool same_types = weight.scalar_type() == x.scalar_type() && bias.scalar_type() == x.scalar_type();
  if (x.dim() != 2 || !same_types) return eager::LayerNorm(x, residual, weight, bias, eps, quantize);
  const int64_t rows = x.size(0), width = x.size(1);
  CheckShape("layer_norm: weight", weight, {width});
  CheckShape("layer_norm: bias", bias, {width});
  const at::Tensor dense_x = DenseRows(x), dense_weight = weight.contiguous(), dense_bias = bias.contiguous();
  at::Tensor y = at::empty({rows, width}, x.options()), sum = x, dense_residual;
  if (IsDefined(residual)) {
    CheckShape("layer_norm: residual", *residual, x.sizes());
    CheckType("layer_norm: residual", *residual, x.scalar_type());
    dense_residual = DenseRows(*residual);
    sum = at::empty_like(y);
  }
  DispatchFloats("layer_norm", x, [&](auto zero) {
    using T = decltype(zero);
    const bool add = dense_residual.defined();
    const LayerNormArgs<T> args{.x = dense_x.const_data_ptr<T>(),
                                .residual = add ? dense_residual.const_data_ptr<T>() : nullptr,
                                .weight = dense_weight.const_data_ptr<T>(),
                                .bias = dense_bias.const_data_ptr<T>(),
                                .sum = add ? sum.mutable_data_ptr<T>() : nullptr,
                                .y = y.mutable_data_ptr<T>(),
                                .x_stride = dense_x.stride(0),
                                .residual_stride = add ? dense_residual.stride(0) : 0,
                                .width = width,
                                .eps = static_cast<float>(eps)};
    ForRows(rows, 3 * width, [&](int64_t begin, int64_t end) { RunSimd<LayerNormRows<T>>(&args, begin, end); });
  });
  auto [quantized, scale] = eager::QuantizeRows(y, quantize);
  return {quantized, scale, sum};
}

const bool registered = RegisterKernel(&Ops::layer_norm, at::kCPU, FusedDtypes(), LayerNorm, LayerNormSamples);

}  // namespace
}  // namespace automodeld
