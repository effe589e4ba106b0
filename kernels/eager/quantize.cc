#include "kernels/eager/eager.h"
#include "kernels/fp8.h"

namespace automodeld::eager {
// Divided by a tensor, because libtorch's CUDA kernel multiplies by the inverse of a number, which rounds differently.
at::Tensor ScaleOfLargest(const at::Tensor& largest) {
  constexpr double kMinScale = 1e-12;  // a row of zeros would divide by zero
  return (largest / at::full({1}, kMaxE4m3, largest.options())).clamp_min_(kMinScale);
}

std::tuple<at::Tensor, at::Tensor> QuantizeRows(const at::Tensor& y, bool quantize) {
  if (!quantize) return {y, at::Tensor()};
  const at::Tensor rows = y.to(at::kFloat);
  const at::Tensor scale = ScaleOfLargest(rows.abs().amax({-1}, /*keepdim=*/true));
  return {(rows / scale).clamp(-kMaxE4m3, kMaxE4m3).to(at::kFloat8_e4m3fn), scale};
}

}  // namespace automodeld::eager
