#include "core/layers/norm.h"

#include <tuple>

namespace automodeld {

LinearInput RmsNorm::operator()(Activation& x, bool quantize) const {
  std::optional<at::Tensor> residual;
  if (x.residual.defined()) residual = x.residual;
  auto [y, scale, sum] = ops_->rms_norm(x.hidden, residual, weight_, eps_, quantize);
  x.residual = sum;
  return {y, scale, x.hidden.scalar_type()};
}

at::Tensor LayerNorm::operator()(const at::Tensor& x, const std::optional<at::Tensor>& residual) const {
  return std::get<0>(ops_->layer_norm(x, residual, weight_, bias_, eps_, /*quantize=*/false));
}

}  // namespace automodeld
