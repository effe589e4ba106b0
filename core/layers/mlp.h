// Gated feed-forward: down(act(gate(x)) * up(x)), gate and up in one GEMM. Follows transformers' LlamaMLP.
#ifndef CORE_LAYERS_MLP_H_
#define CORE_LAYERS_MLP_H_

#include <ATen/ATen.h>

#include <string>

#include "core/checkpoint.h"
#include "core/layers/linear.h"
#include "kernels/ops.h"

namespace automodeld {

struct GatedMlpOptions {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  std::string activation = "silu";  // as Ops::act_mul
  bool bias = false;
};

class GatedMlp {
 public:
  GatedMlp(const Weights& w, const GatedMlpOptions& options, const Ops& ops);

  at::Tensor Forward(const LinearInput& x) const;          // [tokens, hidden] -> [tokens, hidden]
  bool quantizes() const { return gate_up_.quantizes(); }  // its input

 private:
  std::string activation_;
  Linear gate_up_;
  Linear down_;
  const Ops* ops_;
};

// transformers' `hidden_act` as an activation of Ops::act_mul; empty where there is none.
std::string ActivationName(const std::string& hidden_act);

}  // namespace automodeld

#endif  // CORE_LAYERS_MLP_H_
