// As transformers' Llama and Qwen3 attention up to the cache update: split, norm per head, rotate halves, append.
#include "kernels/eager/eager.h"
#include "kernels/kv_cache.h"
#include "kernels/tensors.h"

namespace automodeld::eager {
namespace {

// x: [tokens, heads, head_dim]; cos, sin: [tokens, 1, rotary_dim / 2], of x's dtype.
at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t half = cos.size(-1);
  const at::Tensor first = x.narrow(-1, 0, half);
  const at::Tensor second = x.narrow(-1, half, half);
  const at::Tensor rest = x.narrow(-1, 2 * half, x.size(-1) - 2 * half);
  return at::cat({first * cos + -second * sin, second * cos + first * sin, rest}, -1);
}

void WriteKv(const at::Tensor& x, const at::Tensor& slots, const at::Tensor& cache, float write_scale) {
  const at::Tensor page = slots.div(cache.size(1), "floor");
  const at::Tensor held = ToCache(x, cache.scalar_type(), write_scale);
  StoredBytes(cache).index_put_({page, slots - page * cache.size(1)}, StoredBytes(held));
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> QkvRopeWriteKv(
    const at::Tensor& qkv, int64_t heads, int64_t kv_heads, const std::optional<at::Tensor>& q_norm,
    const std::optional<at::Tensor>& k_norm, double eps, const std::optional<at::Tensor>& cos_sin,
    const at::Tensor& positions, const std::optional<at::Tensor>& k_cache, const std::optional<at::Tensor>& v_cache,
    const std::optional<at::Tensor>& kv_slots, double k_scale, double v_scale) {
  const int64_t all_heads = heads + 2 * kv_heads;
  TORCH_CHECK(qkv.size(-1) % all_heads == 0, "qkv_rope_write_kv: qkv has ", qkv.size(-1),
              " columns, expected a multiple of heads + 2 * kv_heads = ", all_heads);
  const at::Tensor all = qkv.reshape({qkv.size(0), all_heads, qkv.size(-1) / all_heads});
  at::Tensor q = all.narrow(1, 0, heads);
  at::Tensor k = all.narrow(1, heads, kv_heads);
  const at::Tensor v = all.narrow(1, heads + kv_heads, kv_heads).contiguous();
  if (IsDefined(q_norm)) q = NormalizeRms(q, *q_norm, eps);
  if (IsDefined(k_norm)) k = NormalizeRms(k, *k_norm, eps);
  if (IsDefined(cos_sin)) {
    const at::Tensor here = cos_sin->index_select(0, positions).to(qkv.scalar_type());  // [tokens, 2, half]
    q = Rotate(q, here.narrow(1, 0, 1), here.narrow(1, 1, 1));
    k = Rotate(k, here.narrow(1, 0, 1), here.narrow(1, 1, 1));
  }
  if (IsDefined(kv_slots)) {
    WriteKv(k, *kv_slots, *k_cache, WriteScale("qkv_rope_write_kv: k_scale", k_cache->scalar_type(), k_scale));
    WriteKv(v, *kv_slots, *v_cache, WriteScale("qkv_rope_write_kv: v_scale", v_cache->scalar_type(), v_scale));
  }
  return {q.contiguous(), k.contiguous(), v};
}

}  // namespace automodeld::eager
