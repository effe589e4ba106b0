// Self-attention of a decoder: fused QKV, RoPE and KV write, an attention backend, output projection. Where the backend
// takes raw rows (AttentionBackend::RunRaw), it does RoPE and KV write too.
// Follows transformers' LlamaAttention, Qwen2Attention and Qwen3Attention; what differs is in the options.
#ifndef CORE_LAYERS_ATTENTION_H_
#define CORE_LAYERS_ATTENTION_H_

#include <ATen/ATen.h>

#include <optional>

#include "core/checkpoint.h"
#include "core/layers/inputs.h"
#include "core/layers/linear.h"
#include "kernels/attention.h"
#include "kernels/ops.h"

namespace automodeld {

struct SelfAttentionOptions {
  AttentionLayer layer;  // k_scale and v_scale: outside 1e-30..1e30 a float8_e4m3fn cache is not written but throws
  int64_t hidden_size = 0;
  bool qkv_bias = false;
  bool output_bias = false;
  bool qk_norm = false;  // RMSNorm over head_dim of every q and k head, before RoPE (Qwen3)
  double eps = 1e-6;     // of qk_norm
};

class SelfAttention {
 public:
  // cos_sin: the model's RopeTable, shared by its layers.
  SelfAttention(const Weights& w, const SelfAttentionOptions& options, at::Tensor cos_sin, const Ops& ops);

  at::Tensor Forward(const LinearInput& x, const Inputs& in) const;  // [tokens, hidden] -> [tokens, hidden]
  bool quantizes() const { return qkv_.quantizes(); }                // its input

 private:
  AttentionLayer layer_;
  double eps_;
  Linear qkv_;
  Linear output_;
  std::optional<at::Tensor> q_norm_;
  std::optional<at::Tensor> k_norm_;
  at::Tensor cos_sin_;
  const Ops* ops_;
};

}  // namespace automodeld

#endif  // CORE_LAYERS_ATTENTION_H_
