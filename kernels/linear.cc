#include "kernels/linear.h"

#include "kernels/cpu/linear.h"
#include "kernels/cpu/packed_linear.h"

namespace automodeld {

at::Tensor PackWeight(const at::Tensor& weight) { return CanPackLinear(weight) ? PackLinear(weight) : weight; }

at::Tensor RunLinear(const LinearInput& x, const LinearWeight& weight, const std::optional<at::Tensor>& bias,
                     const std::string& activation) {
  const auto* plain = std::get_if<at::Tensor>(&weight);
  TORCH_CHECK(plain == nullptr || !x.quantized(), "linear: quantised rows, but the weight is ", plain->scalar_type());
  if (plain != nullptr && plain->dim() == 3) return PackedLinear(x.values, *plain, bias, activation);
  const at::Tensor y = plain == nullptr                         ? Fp8Linear(x, std::get<Fp8Weight>(weight), bias)
                       : IsForCpuLinear(x.values, *plain, bias) ? CpuLinear(x.values, *plain, bias)
                                                                : at::linear(x.values, *plain, bias);
  return activation.empty() ? y : Activate(y, activation);
}

at::Tensor Activate(const at::Tensor& x, const std::string& activation) {
  if (activation == "relu") return at::relu(x);
  if (activation == "silu") return at::silu(x);
  return at::gelu(x, activation == "gelu_tanh" ? "tanh" : "none");
}

}  // namespace automodeld
