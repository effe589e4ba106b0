// y = x W^T + b, with the weight kept in the form the plan gave it. Follows torch.nn.Linear.
//
//   Linear o_proj(w / "o_proj", {.out = hidden, .in = heads * head_dim});
//   Linear qkv(w, {"q_proj", "k_proj", "v_proj"}, {q_dim, kv_dim, kv_dim}, hidden, /*bias=*/false);   // one GEMM
#ifndef CORE_LAYERS_LINEAR_H_
#define CORE_LAYERS_LINEAR_H_

#include <ATen/ATen.h>

#include <optional>
#include <string>
#include <vector>

#include "core/checkpoint.h"
#include "kernels/linear.h"

namespace automodeld {

struct LinearShape {
  int64_t out = 0;
  int64_t in = 0;
  bool bias = false;
};

class Linear {
 public:
  Linear(const Weights& w, const LinearShape& shape);
  // Several linears of one input as one: member i owns rows [sum of out_dims before i, ...) of the result.
  Linear(const Weights& w, const std::vector<std::string>& members, const std::vector<int64_t>& out_dims,
         int64_t in_dim, bool bias);
  // One whose weight is an embedding.
  Linear(const Weights& w, const at::Tensor& tied) : weight_(w.Tied(tied)) {}

  // [tokens, in] -> [tokens, out]; `activation` as RunLinear.
  at::Tensor operator()(const LinearInput& x, const std::string& activation = "") const;

  // Whether the layer quantises its input: whoever makes it may do so on the way.
  bool quantizes() const { return TakesQuantized(weight_); }

 private:
  LinearWeight weight_;             // [out, in]
  std::optional<at::Tensor> bias_;  // [out]
};

}  // namespace automodeld

#endif  // CORE_LAYERS_LINEAR_H_
