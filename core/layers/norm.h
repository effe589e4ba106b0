// Norms over the hidden dimension, with the residual added on the way.
//
// RmsNorm follows transformers' LlamaRMSNorm on a pre-norm stream: adds Activation::hidden to the residual and gives
// the normed sum. LayerNorm follows torch.nn.LayerNorm on a post-norm stream (BERT): LayerNorm(x + residual).
#ifndef CORE_LAYERS_NORM_H_
#define CORE_LAYERS_NORM_H_

#include <ATen/ATen.h>

#include <optional>

#include "core/checkpoint.h"
#include "core/layers/inputs.h"
#include "kernels/linear_input.h"
#include "kernels/ops.h"

namespace automodeld {

class RmsNorm {
 public:
  RmsNorm(const Weights& w, int64_t dim, double eps, const Ops& ops)
      : weight_(w.Get("weight", {dim})), eps_(eps), ops_(&ops) {}

  LinearInput operator()(Activation& x, bool quantize = false) const;  // updates x.residual; [tokens, dim]

 private:
  at::Tensor weight_;
  double eps_;
  const Ops* ops_;
};

class LayerNorm {
 public:
  LayerNorm(const Weights& w, int64_t dim, double eps, const Ops& ops)
      : weight_(w.Get("weight", {dim})), bias_(w.Get("bias", {dim})), eps_(eps), ops_(&ops) {}

  at::Tensor operator()(const at::Tensor& x, const std::optional<at::Tensor>& residual) const;

 private:
  at::Tensor weight_;
  at::Tensor bias_;
  double eps_;
  const Ops* ops_;
};

}  // namespace automodeld

#endif  // CORE_LAYERS_NORM_H_
