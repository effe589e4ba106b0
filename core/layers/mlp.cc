#include "core/layers/mlp.h"

#include <tuple>

namespace automodeld {

GatedMlp::GatedMlp(const Weights& w, const GatedMlpOptions& options, const Ops& ops)
    : activation_(options.activation),
      gate_up_(w, {"gate_proj", "up_proj"}, {options.intermediate_size, options.intermediate_size}, options.hidden_size,
               options.bias),
      down_(w / "down_proj", {.out = options.hidden_size, .in = options.intermediate_size, .bias = options.bias}),
      ops_(&ops) {}

at::Tensor GatedMlp::Forward(const LinearInput& x) const {
  auto [y, scale] = ops_->act_mul(gate_up_(x), activation_, down_.quantizes());
  return down_({y, scale, x.dtype});
}

std::string ActivationName(const std::string& hidden_act) {
  if (hidden_act == "silu" || hidden_act == "swish") return "silu";
  if (hidden_act == "gelu") return "gelu";
  if (hidden_act == "gelu_new" || hidden_act == "gelu_pytorch_tanh" || hidden_act == "gelu_fast") return "gelu_tanh";
  if (hidden_act == "relu") return "relu";
  return "";
}

}  // namespace automodeld
