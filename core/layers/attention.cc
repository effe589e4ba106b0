#include "core/layers/attention.h"

#include <utility>

namespace automodeld {

SelfAttention::SelfAttention(const Weights& w, const SelfAttentionOptions& options, at::Tensor cos_sin, const Ops& ops)
    : layer_(options.layer),
      eps_(options.eps),
      qkv_(w, {"q_proj", "k_proj", "v_proj"},
           {layer_.num_heads * layer_.head_dim, layer_.num_kv_heads * layer_.head_dim,
            layer_.num_kv_heads * layer_.head_dim},
           options.hidden_size, options.qkv_bias),
      output_(w / "o_proj",
              {.out = options.hidden_size, .in = layer_.num_heads * layer_.head_dim, .bias = options.output_bias}),
      cos_sin_(std::move(cos_sin)),
      ops_(&ops) {
  layer_.quantize = output_.quantizes();
  layer_.k_scale = w.Scale({"k_proj.k_scale", "k_scale"});
  layer_.v_scale = w.Scale({"v_proj.v_scale", "v_scale"});
  if (!options.qk_norm) return;
  q_norm_ = w.Get("q_norm.weight", {layer_.head_dim});
  k_norm_ = w.Get("k_norm.weight", {layer_.head_dim});
}

at::Tensor SelfAttention::Forward(const LinearInput& x, const Inputs& in) const {
  const at::Tensor qkv = qkv_(x);
  std::optional<at::Tensor> keys, values, slots;
  if (in.kv != nullptr) {
    const RawQkv raw{.version = ops_->qkv_rope_write_kv.version,
                     .qkv = qkv,
                     .q_norm = q_norm_,
                     .k_norm = k_norm_,
                     .eps = eps_,
                     .cos_sin = cos_sin_,
                     .positions = in.positions,
                     .slots = in.kv_slots};
    const std::optional<LinearInput> attended = in.attention->RunRaw(layer_, raw, *in.kv);
    if (attended.has_value()) return output_(*attended);
    keys = in.kv->keys(layer_.index);
    values = in.kv->values(layer_.index);
    slots = in.kv_slots;
  }
  auto [q, k, v] = ops_->qkv_rope_write_kv(qkv, layer_.num_heads, layer_.num_kv_heads, q_norm_, k_norm_, eps_, cos_sin_,
                                           in.positions, keys, values, slots, layer_.k_scale, layer_.v_scale);
  return output_(in.attention->Run(layer_, q, k, v, in.kv));
}

}  // namespace automodeld
