// As transformers' LlamaRMSNorm: float32 inside, cast back before the weight is applied.
#include "kernels/eager/eager.h"
#include "kernels/tensors.h"

namespace automodeld::eager {

at::Tensor NormalizeRms(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor variance = wide.pow(2).mean(-1, /*keepdim=*/true);
  return weight * (wide * at::rsqrt(variance + eps)).to(x.scalar_type());
}

NormResult RmsNorm(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight, double eps,
                   bool quantize) {
  const at::Tensor sum = IsDefined(residual) ? x + *residual : x;
  auto [y, scale] = QuantizeRows(NormalizeRms(sum, weight, eps), quantize);
  return {y, scale, sum};
}

}  // namespace automodeld::eager
