// A loaded model as its runner sees it, and what planning knows of it before a tensor is read.
#ifndef CORE_MODEL_H_
#define CORE_MODEL_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "core/layers/inputs.h"

namespace automodeld {

// What planning has to know before a tensor is read.
struct ModelShape {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  // of the MLP; 0: none that is gated
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;
  std::vector<int64_t> windows;     // per layer: sliding window in tokens, 0 for none; empty: none anywhere
  bool causal = true;               // false: an encoder, which answers Embed only and keeps no KV
  double initializer_range = 0.02;  // FromConfig
};

// A model whose weights are on the device. Forward and Logits are called by the runner's thread only, in inference
// mode.
class Model {
 public:
  virtual ~Model() = default;
  // Hidden states after the final norm, [tokens, hidden_size].
  virtual at::Tensor Forward(const Inputs& in) const = 0;
  // Logits of some rows of Forward's result, [rows, hidden_size] -> [rows, vocab_size]. Not called on encoders.
  virtual at::Tensor Logits(const at::Tensor& rows) const = 0;
};

}  // namespace automodeld

#endif  // CORE_MODEL_H_
