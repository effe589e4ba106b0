// Operations that may not take the place of rms_norm: one argument has another name; the values are twice too large;
// there is no kernel; it throws.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <optional>
#include <stdexcept>
#include <tuple>

namespace {

using Results = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

Results TwiceTooLarge(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight,
                      double eps, bool) {
  const at::Tensor sum = residual.has_value() ? x + *residual : x;
  const at::Tensor root = (sum.square().mean(-1, /*keepdim=*/true) + eps).sqrt();
  return {2 * weight * sum / root, at::Tensor(), sum};
}

Results Throws(const at::Tensor&, const std::optional<at::Tensor>&, const at::Tensor&, double, bool) {
  throw std::runtime_error("the tables are not there");
}

TORCH_LIBRARY(wrong, library) {
  library.def(
      "renamed(Tensor input, Tensor? residual, Tensor weight, float eps, bool quantize) -> (Tensor, Tensor, Tensor)",
      TwiceTooLarge);
  library.def("twice(Tensor x, Tensor? residual, Tensor weight, float eps, bool quantize) -> (Tensor, Tensor, Tensor)",
              TwiceTooLarge);
  library.def(
      "absent(Tensor x, Tensor? residual, Tensor weight, float eps, bool quantize) -> (Tensor, Tensor, Tensor)");
  library.def("throws(Tensor x, Tensor? residual, Tensor weight, float eps, bool quantize) -> (Tensor, Tensor, Tensor)",
              Throws);
}

}  // namespace
