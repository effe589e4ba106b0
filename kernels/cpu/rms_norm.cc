// s = x + residual;  y = s / sqrt(mean(s^2) + eps) * weight, each step rounded as in eager/rms_norm.cc.
// One pass over memory: the second loop finds the row in the nearest cache. Streams 4 (with residual) or 2 tensors.
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
struct RmsNormArgs {
  const T *x, *residual, *weight;  // residual may be null, and then sum is null and not written
  T *sum, *y;
  int64_t x_stride, residual_stride, width;
  float eps;
};

template <typename T>
struct RmsNormRows {
  template <int W>
  AUTOMODELD_INLINE static void Run(const RmsNormArgs<T>* args, int64_t begin, int64_t end) {
    const RmsNormArgs<T> a = *args;
    for (int64_t row = begin; row < end; ++row) {
      const T* x = a.x + row * a.x_stride;
      Floats<W> squares = {};
      if (a.residual != nullptr) {
        T* sum = a.sum + row * a.width;
        const T* residual = a.residual + row * a.residual_stride;
        for (int64_t i = 0; i < a.width; i += W) {
          const Floats<W> s = RoundTo<W, T>(LoadPart<W>(x + i, a.width - i) + LoadPart<W>(residual + i, a.width - i));
          StorePart<W>(sum + i, s, a.width - i);
          squares += s * s;
        }
        x = sum;
      } else {
        for (int64_t i = 0; i < a.width; i += W) {
          const Floats<W> s = LoadPart<W>(x + i, a.width - i);
          squares += s * s;
        }
      }
      const float scale = 1.0f / std::sqrt(Sum<W>(squares) / static_cast<float>(a.width) + a.eps);
      T* y = a.y + row * a.width;
      for (int64_t i = 0; i < a.width; i += W) {
        const Floats<W> normal = RoundTo<W, T>(LoadPart<W>(x + i, a.width - i) * scale);
        StorePart<W>(y + i, normal * LoadPart<W>(a.weight + i, a.width - i), a.width - i);
      }
    }
  }
};

NormResult RmsNorm(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight, double eps,
                   bool quantize) {
  if (x.dim() != 2 || weight.scalar_type() != x.scalar_type())
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
  DispatchFloats("rms_norm", x, [&](auto zero) {
    using T = decltype(zero);
    const bool add = dense_residual.defined();
    const RmsNormArgs<T> args{.x = dense_x.const_data_ptr<T>(),
                              .residual = add ? dense_residual.const_data_ptr<T>() : nullptr,
                              .weight = dense_weight.const_data_ptr<T>(),
                              .sum = add ? sum.mutable_data_ptr<T>() : nullptr,
                              .y = y.mutable_data_ptr<T>(),
                              .x_stride = dense_x.stride(0),
                              .residual_stride = add ? dense_residual.stride(0) : 0,
                              .width = width,
                              .eps = static_cast<float>(eps)};
    ForRows(rows, 2 * width, [&](int64_t begin, int64_t end) { RunSimd<RmsNormRows<T>>(&args, begin, end); });
  });
  auto [quantized, scale] = eager::QuantizeRows(y, quantize);
  return {quantized, scale, sum};
}

const bool registered = RegisterKernel(&Ops::rms_norm, at::kCPU, FusedDtypes(), RmsNorm, RmsNormSamples);

}  // namespace
}  // namespace automodeld
