// The plain ATen version of every op: the definition that fused versions are tested against, and the fallback on any
// device and dtype. Signatures and meaning are in kernels/ops.h.
#ifndef KERNELS_EAGER_EAGER_H_
#define KERNELS_EAGER_EAGER_H_

#include <optional>
#include <string>
#include <tuple>

#include "kernels/ops.h"

namespace automodeld::eager {

at::Tensor EmbedTokens(const at::Tensor& token_ids, const std::optional<at::Tensor>& last_tokens,
                       const at::Tensor& weight, double scale);

NormResult RmsNorm(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight, double eps,
                   bool quantize);

NormResult LayerNorm(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight,
                     const at::Tensor& bias, double eps, bool quantize);

std::tuple<at::Tensor, at::Tensor, at::Tensor> QkvRopeWriteKv(
    const at::Tensor& qkv, int64_t heads, int64_t kv_heads, const std::optional<at::Tensor>& q_norm,
    const std::optional<at::Tensor>& k_norm, double eps, const std::optional<at::Tensor>& cos_sin,
    const at::Tensor& positions, const std::optional<at::Tensor>& k_cache, const std::optional<at::Tensor>& v_cache,
    const std::optional<at::Tensor>& kv_slots, double k_scale, double v_scale);

std::tuple<at::Tensor, at::Tensor> ActMul(const at::Tensor& gate_up, const std::string& activation, bool quantize);

at::Tensor AdjustLogits(const at::Tensor& logits, const at::Tensor& counts, const at::Tensor& count_rows,
                        const at::Tensor& penalties, const at::Tensor& bias_offsets, const at::Tensor& bias_ids,
                        const at::Tensor& bias_values);

at::Tensor CountTokens(const at::Tensor& counts, const at::Tensor& count_rows, const at::Tensor& tokens);

at::Tensor Sample(const at::Tensor& logits, const at::Tensor& temperature, const at::Tensor& top_k,
                  const at::Tensor& top_p, const at::Tensor& min_p, const at::Tensor& seeds,
                  const at::Tensor& positions);

at::Tensor PoolRows(const at::Tensor& hidden, const at::Tensor& items, const std::optional<at::Tensor>& partial);

// x / rms(x) * weight over the last dimension, any shape: what RmsNorm and the per-head norms of q and k share.
at::Tensor NormalizeRms(const at::Tensor& x, const at::Tensor& weight, double eps);

// The scales at which `largest` becomes 448, e4m3's largest value; never 0.
at::Tensor ScaleOfLargest(const at::Tensor& largest);

// y [rows, n] -> (float8_e4m3fn [rows, n], float32 scale [rows, 1]) with y ~ quantised * scale: the largest value of a
// row becomes 448. Without `quantize` gives y back and an undefined scale.
std::tuple<at::Tensor, at::Tensor> QuantizeRows(const at::Tensor& y, bool quantize);

}  // namespace automodeld::eager

#endif  // KERNELS_EAGER_EAGER_H_
