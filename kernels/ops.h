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
  // Rows of weight [vocab, n], times scale (rounded to weight's dtype, as the product is). A negative token id stands
  // for last_tokens[-1 - id], what a draw has left there, which the host need not know. token_ids: [tokens],
  // last_tokens: [slots] (none: no id is negative), int64. Gives [tokens, n].
  Op<at::Tensor(const at::Tensor& token_ids, const std::optional<at::Tensor>& last_tokens, const at::Tensor& weight,
                double scale)>
      embed_tokens;

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

  // What a request adds to its logits before the draw. logits: [rows, vocab], any float type, not changed. To token t
  // of row r, in float32 and this order:
  //   bias: += bias_values[i] for each i in bias_offsets[r] .. bias_offsets[r + 1] - 1 with bias_ids[i] = t; -infinity
  //     masks it, whatever comes after
  //   penalties[0][r], repetition, if t came in the prompt or in the completion: logit > 0 ? logit / it : logit * it
  //   -= n * penalties[1][r] + (n > 0 ? penalties[2][r] : 0), frequency and presence, if t came n times in the
  //   completion
  // counts: [capacity, vocab] int32, row count_rows[r] (negative: none) is r's: n in the lower 31 bits, the highest set
  // if t is in the prompt. count_rows: [rows], bias_offsets: [rows + 1], ascending, bias_ids: [entries], int64;
  // penalties: [3, rows], bias_values: [entries], float32. Gives [rows, vocab] float32.
  Op<at::Tensor(const at::Tensor& logits, const at::Tensor& counts, const at::Tensor& count_rows,
                const at::Tensor& penalties, const at::Tensor& bias_offsets, const at::Tensor& bias_ids,
                const at::Tensor& bias_values)>
      adjust_logits;

  // Counts what was drawn: counts[count_rows[r]][tokens[r]] += 1 for each row r with a row of counts (adjust_logits),
  // no two of which are the same. tokens: [rows] int64. Gives counts.
  Op<at::Tensor(const at::Tensor& counts, const at::Tensor& count_rows, const at::Tensor& tokens)> count_tokens;

  // Picks one token per row. logits: [rows, vocab], any float type, not changed. Penalties, bias and the mask of stop
  // tokens (min_tokens) are already in. temperature, top_p, min_p: [rows] float32; top_k: [rows] int64 (0 keeps all);
  // seeds: [rows] int64 (the bits of a uint64); positions: [rows] int64. Temperature 0 takes the first largest logit.
  // Order: temperature, then top_k, top_p, min_p on the same distribution, as vLLM. The draw is exponential-race or
  // inverse-CDF with Philox4x32-10(key = seed, counter = position): the same on every device and for every neighbour.
  // Gives tokens [rows] int64.
  Op<at::Tensor(const at::Tensor& logits, const at::Tensor& temperature, const at::Tensor& top_k,
                const at::Tensor& top_p, const at::Tensor& min_p, const at::Tensor& seeds, const at::Tensor& positions)>
      sample;

  // One vector for each of many sequences, from the rows of their tokens. hidden: [rows, n], any float type; items:
  // [items, 8] int64, as kernels/pool_rows.h lays them out. Sums are float32; partial: [any, n] float32, where
  // sequences that come in chunks keep what they have so far (none: all are whole). Of an item that is the last of its
  // sequence the vector is divided, cut to its dimensions and normalised; of another it is what `partial` now has.
  // Gives [items, n] float32.
  Op<at::Tensor(const at::Tensor& hidden, const at::Tensor& items, const std::optional<at::Tensor>& partial)> pool_rows;
};

// Calls visit with every operation's entry, in the table's order; of several tables with the entries side by side.
template <typename Visit, typename... Tables>
void ForEachOp(const Visit& visit, Tables&&... tables) {
  visit(tables.embed_tokens...);
  visit(tables.rms_norm...);
  visit(tables.layer_norm...);
  visit(tables.qkv_rope_write_kv...);
  visit(tables.act_mul...);
  visit(tables.adjust_logits...);
  visit(tables.count_tokens...);
  visit(tables.sample...);
  visit(tables.pool_rows...);
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
