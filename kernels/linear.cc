#include "kernels/linear.h"

#include <fmt/format.h>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/packed_linear.h"
#include "kernels/cuda/skinny_linear.h"

namespace automodeld {

at::Tensor PackWeight(const at::Tensor& weight) { return CanPackLinear(weight) ? PackLinear(weight) : weight; }

at::Tensor RunLinear(const LinearInput& x, const LinearWeight& weight, const std::optional<at::Tensor>& bias,
                     const std::string& activation) {
  const auto* plain = std::get_if<at::Tensor>(&weight);
  TORCH_CHECK(plain == nullptr || !x.quantized(), "linear: quantised rows, but the weight is ", plain->scalar_type());
  if (plain != nullptr && plain->dim() == 3) return PackedLinear(x.values, *plain, bias, activation);
  if (plain == nullptr) return Fp8Linear(x, std::get<Fp8Weight>(weight), bias, activation);
  if (TakesSkinnyLinear(x.values, *plain)) return SkinnyLinear(x, *plain, /*weight_scale=*/{}, bias, activation);
  const at::Tensor y =
      IsForCpuLinear(x.values, *plain, bias) ? CpuLinear(x.values, *plain, bias) : at::linear(x.values, *plain, bias);
  return activation.empty() ? y : Activate(y, activation);
}

at::Tensor Activate(const at::Tensor& x, const std::string& activation) {
  if (activation == "relu") return at::relu(x);
  if (activation == "silu") return at::silu(x);
  return at::gelu(x, activation == "gelu_tanh" ? "tanh" : "none");
}

std::string MissingKernels(int major, int minor) {
  const std::string which = "Hopper's kernels for linear layers of few rows and for attention over prompts ";
  if (major == 9 && minor == 0) return which + "are not in this build";
  return which + fmt::format("need compute capability 9.0, this device has {}.{}", major, minor);
}

#ifndef AUTOMODELD_CUDA  // a build without nvcc
bool IsHopper(at::Device /*device*/) { return false; }
std::string MissingKernels(at::Device /*device*/) { return ""; }
bool TakesSkinnyLinear(const at::Tensor& /*x*/, const at::Tensor& /*weight*/) { return false; }
bool TakesScaleProduct(const at::Tensor& /*product*/) { return false; }

at::Tensor SkinnyLinear(const LinearInput& /*x*/, const at::Tensor& /*weight*/, const at::Tensor& /*weight_scale*/,
                        const std::optional<at::Tensor>& /*bias*/, const std::string& /*activation*/) {
  TORCH_CHECK(false, "linear: built without CUDA");
}

at::Tensor ScaleProduct(const at::Tensor& /*product*/, const at::Tensor& /*row_scale*/,
                        const at::Tensor& /*column_scale*/, const std::optional<at::Tensor>& /*bias*/,
                        const std::string& /*activation*/, at::ScalarType /*dtype*/) {
  TORCH_CHECK(false, "linear: built without CUDA");
}
#endif

}  // namespace automodeld
