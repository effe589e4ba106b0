// The op table: every stateless operation that a model calls, with its schema.
//
//   Ops ops = EagerOps();                               // plain ATen: the definition, on any device
//   auto [y, scale, residual] = ops.rms_norm(x, residual, weight, 1e-6, false);
//
// A table is a value that a model owns. Patching builds a new one and checks each entry's schema (core/patch.h). Ops
// are coarse, so that a fused version has the same signature as the eager one. Add a kernel: one file, and one line
// here.
#ifndef KERNELS_OPS_H_
#define KERNELS_OPS_H_

#include <ATen/ATen.h>

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

namespace automodeld {

// One entry: what it is called, its schema (as for torch::schema), which version is in the table, and the function.
template <typename Signature>
struct Op {
  std::string name;     // "rms_norm"
  std::string schema;   // "rms_norm(Tensor x, Tensor? residual, Tensor weight, float eps, bool quantize) -> (...)"
  std::string version;  // "eager", "cpu", "cuda", "mycorp::rms_norm"
  std::function<Signature> function;

  template <typename... Args>
  auto operator()(Args&&... args) const {
    return function(std::forward<Args>(args)...);
  }
};

// y, its per-row scale (undefined unless quantised), and the new residual.
using NormResult = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

struct Ops {
  // residual' = x + residual (or x); y = residual' / rms(residual') * weight, the norm in float32, as transformers does
  // (normalised value cast to x's dtype before the weight is applied). x: [tokens, hidden].
  Op<NormResult(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight, double eps,
                bool quantize)>
      rms_norm;

  // residual' = x + residual (or x); y = LayerNorm(residual') * weight + bias.
  Op<NormResult(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight,
                const at::Tensor& bias, double eps, bool quantize)>
      layer_norm;

  // Splits qkv [tokens, (heads + 2 * kv_heads) * head_dim] into q, k, v; norms q and k per head if weights are given
  // (Qwen3); rotates q and k by cos_sin [max_positions, 2, rotary_dim / 2] (float32; cosine, sine) at `positions`
  // (undefined cos_sin: no rotation), halves layout as transformers' rotate_half, the rest of head_dim unrotated;
  // writes k and v into the cache views [pages, page_size, kv_heads, head_dim] at kv_slots (none: writes nothing), in
  // the cache's type: as k / k_scale and v / v_scale if that is float8_e4m3fn (kernels/kv_cache.h). Gives q
  // [tokens, heads, head_dim] and k, v [tokens, kv_heads, head_dim] of qkv's dtype, k and v not rounded to the cache's.
  Op<std::tuple<at::Tensor, at::Tensor, at::Tensor>(
      const at::Tensor& qkv, int64_t heads, int64_t kv_heads, const std::optional<at::Tensor>& q_norm,
      const std::optional<at::Tensor>& k_norm, double eps, const std::optional<at::Tensor>& cos_sin,
      const at::Tensor& positions, const std::optional<at::Tensor>& k_cache, const std::optional<at::Tensor>& v_cache,
      const std::optional<at::Tensor>& kv_slots, double k_scale, double v_scale)>
      qkv_rope_write_kv;

  // gate_up [tokens, 2 * n], gate first: y = act(gate) * up, and its per-row scale (undefined unless quantised).
  // activation: "silu", "gelu" (erf) or "gelu_tanh".
  Op<std::tuple<at::Tensor, at::Tensor>(const at::Tensor& gate_up, const std::string& activation, bool quantize)>
      act_mul;

  // Picks one token per row. logits: [rows, vocab], any float type, not changed. Penalties, bias and the mask of stop
  // tokens (min_tokens) are already in. temperature, top_p, min_p: [rows] float32; top_k: [rows] int64 (0 keeps all);
  // seeds: [rows] int64 (the bits of a uint64); positions: [rows] int64. Temperature 0 takes the first largest logit.
  // Order: temperature, then top_k, top_p, min_p on the same distribution, as vLLM. The draw is exponential-race or
  // inverse-CDF with Philox4x32-10(key = seed, counter = position): the same on every device and for every neighbour.
  // Gives tokens [rows] int64.
  Op<at::Tensor(const at::Tensor& logits, const at::Tensor& temperature, const at::Tensor& top_k,
                const at::Tensor& top_p, const at::Tensor& min_p, const at::Tensor& seeds, const at::Tensor& positions)>
      sample;
};

// Calls visit with every operation's entry, in the table's order; of several tables with the entries side by side.
template <typename Visit, typename... Tables>
void ForEachOp(const Visit& visit, Tables&&... tables) {
  visit(tables.rms_norm...);
  visit(tables.layer_norm...);
  visit(tables.qkv_rope_write_kv...);
  visit(tables.act_mul...);
  visit(tables.sample...);
}

// The definition: plain ATen, float32 where transformers uses float32. Works on every device and for every dtype.
Ops EagerOps();

// The fused versions of `ops` (names) that there are for a device and dtype: put into the table and listed as
// (op, version) pairs in `patched`. Why the others stay eager is in `unpatched`: (op, "no fused version for cuda").
struct FusedOps {
  Ops ops;
  std::vector<std::pair<std::string, std::string>> patched;
  std::vector<std::pair<std::string, std::string>> unpatched;
};
FusedOps FindFusedOps(const Ops& eager, std::span<const std::string> ops, at::Device device, at::ScalarType dtype);

// Of all operations, in the table's order.
std::vector<std::string> OpNames();

}  // namespace automodeld

#endif  // KERNELS_OPS_H_
