#include "kernels/linear.h"

#include "kernels/cpu/linear.h"
#include "kernels/cpu/packed_linear.h"

namespace automodeld {

at::Tensor PackWeight(const at::Tensor& weight) { return CanPackLinear(weight) ? PackLinear(weight) : weight; }

at::Tensor RunLinear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                     const std::string& activation) {
  if (weight.dim() == 3) return PackedLinear(x, weight, bias, activation);
  const at::Tensor y = IsForCpuLinear(x, weight, bias) ? CpuLinear(x, weight, bias) : at::linear(x, weight, bias);
  return activation.empty() ? y : Activate(y, activation);
}

at::Tensor Activate(const at::Tensor& x, const std::string& activation) {
  if (activation == "relu") return at::relu(x);
  if (activation == "silu") return at::silu(x);
  return at::gelu(x, activation == "gelu_tanh" ? "tanh" : "none");
}

}  // namespace automodeld
