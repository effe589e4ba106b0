// A library of operations as a user writes one: its own RMSNorm, by another road than eager's. Tells how often it was
// called, to tests in the process by mycorp_rms_norm_calls and to those outside when the process ends.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <atomic>
#include <cstdio>
#include <optional>
#include <tuple>

namespace {

struct Calls {
  std::atomic<int64_t> count = 0;
  ~Calls() { std::fprintf(stderr, "mycorp::rms_norm: %lld calls\n", static_cast<long long>(count.load())); }
};

Calls& calls() {
  static Calls instance;
  return instance;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> RmsNorm(const at::Tensor& x, const std::optional<at::Tensor>& residual,
                                                       const at::Tensor& weight, double eps, bool quantize) {
  TORCH_CHECK(!quantize, "mycorp::rms_norm does not quantise");
  ++calls().count;
  const at::Tensor sum = residual.has_value() ? *residual + x : x;
  const at::Tensor wide = sum.to(at::kFloat);
  const at::Tensor length = at::linalg_vector_norm(wide, 2, {-1}, /*keepdim=*/true);
  const at::Tensor root = (length.square() / wide.size(-1) + eps).sqrt();
  return {(wide / root).to(x.scalar_type()) * weight, at::Tensor(), sum};
}

TORCH_LIBRARY(mycorp, library) {
  library.def(
      "rms_norm(Tensor x, Tensor? residual, Tensor weight, float eps, bool quantize) -> (Tensor, Tensor, Tensor)",
      RmsNorm);
}

}  // namespace

extern "C" int64_t mycorp_rms_norm_calls() { return calls().count; }
