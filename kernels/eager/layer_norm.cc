// As torch.nn.LayerNorm over the last dimension.
#include "kernels/eager/eager.h"
#include "kernels/tensors.h"

namespace automodeld::eager {

NormResult LayerNorm(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight,
                     const at::Tensor& bias, double eps, bool quantize) {
  const at::Tensor sum = IsDefined(residual) ? x + *residual : x;
  auto [y, scale] = QuantizeRows(at::layer_norm(sum, {sum.size(-1)}, weight, bias, eps), quantize);
  return {y, scale, sum};
}

}  // namespace automodeld::eager
