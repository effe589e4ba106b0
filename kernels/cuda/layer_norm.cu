// s = x + residual;  y = (s - mean(s)) / sqrt(mean((s - mean(s))^2) + eps) * weight + bias in float32, rounded once,
// then quantised if asked (kernels/cuda/row_quantize.h).
// A block takes a row (kernels/cuda/row_norm.h). Streams 4 tensors, 2 without residual; of them y is a byte an element
// where it is quantised.
#include "kernels/cuda/row_norm.h"
#include "kernels/eager/eager.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"

namespace automodeld {
namespace {

struct Centred {
  static constexpr bool kCentred = true;

  template <typename T>
  static __device__ T Of(float s, float scale, T weight, T bias) {
    return RoundTo<T>(s * scale * static_cast<float>(weight) + static_cast<float>(bias));
  }
};

NormResult LayerNorm(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight,
                     const at::Tensor& bias, double eps, bool quantize) {
  const bool same_types = weight.scalar_type() == x.scalar_type() && bias.scalar_type() == x.scalar_type();
  if (x.dim() != 2 || x.numel() == 0 || !same_types) return eager::LayerNorm(x, residual, weight, bias, eps, quantize);
  return NormalizeRows<Centred>("layer_norm", x, residual, weight, bias, eps, quantize);
}

const bool registered = RegisterKernel(&Ops::layer_norm, at::kCUDA, FusedDtypes(), LayerNorm, LayerNormSamples);

}  // namespace
}  // namespace automodeld
