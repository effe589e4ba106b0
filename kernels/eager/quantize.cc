#include "kernels/eager/eager.h"

namespace automodeld::eager {
std::tuple<at::Tensor, at::Tensor> QuantizeRows(const at::Tensor& y, bool quantize) {
  if (!quantize) return {y, at::Tensor()};
  const at::Tensor rows = y.to(at::kFloat);
  const at::Tensor scale = (rows.abs().amax({-1}, /*keepdim=*/true) / kMaxE4m3).clamp_min(kMinScale);
  return {(rows / scale).clamp(-kMaxE4m3, kMaxE4m3).to(at::kFloat8_e4m3fn), scale};
}

}  // namespace automodeld::eager
