// s = x + residual;  y = round(s / sqrt(mean(s^2) + eps)) * weight, each step rounded as in eager/rms_norm.cc, then
// quantised if asked (kernels/cuda/row_quantize.h).
// A block takes a row (kernels/cuda/row_norm.h). Streams 4 tensors, 2 without residual; of them y is a byte an element
// where it is quantised.
#include "kernels/cuda/row_norm.h"
#include "kernels/eager/eager.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"

namespace automodeld {
namespace {

struct Rms {
  static constexpr bool kCentred = false;

  template <typename T>
  static __device__ T Of(float s, float scale, T weight, T) {
    return RoundTo<T>(static_cast<float>(RoundTo<T>(s * scale)) * static_cast<float>(weight));
  }
};

NormResult RmsNorm(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight, double eps,
                   bool quantize) {
  if (x.dim() != 2 || x.numel() == 0 || weight.scalar_type() != x.scalar_type())
    return eager::RmsNorm(x, residual, weight, eps, quantize);
  return NormalizeRows<Rms>("rms_norm", x, residual, weight, /*bias=*/at::Tensor(), eps, quantize);
}

const bool registered = RegisterKernel(&Ops::rms_norm, at::kCUDA, FusedDtypes(), RmsNorm, RmsNormSamples);

}  // namespace
}  // namespace automodeld
