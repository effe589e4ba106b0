// As transformers' gated MLPs: act(gate) * up, each rounded to the tensors' dtype.
#include "kernels/eager/eager.h"

namespace automodeld::eager {
namespace {

at::Tensor Activate(const at::Tensor& gate, const std::string& activation) {
  if (activation == "silu") return at::silu(gate);
  if (activation == "gelu") return at::gelu(gate);
  if (activation == "gelu_tanh") return at::gelu(gate, "tanh");
  TORCH_CHECK(false, "act_mul: activation '", activation, "' is none of silu, gelu, gelu_tanh");
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> ActMul(const at::Tensor& gate_up, const std::string& activation, bool quantize) {
  TORCH_CHECK(gate_up.size(-1) % 2 == 0, "act_mul: gate_up has ", gate_up.size(-1),
              " columns, expected an even number");
  const auto halves = gate_up.chunk(2, -1);
  return QuantizeRows(Activate(halves[0], activation) * halves[1], quantize);
}

}  // namespace automodeld::eager
