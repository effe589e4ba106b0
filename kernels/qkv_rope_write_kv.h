// What the fused versions of qkv_rope_write_kv share: their arguments made ready, and the way around the kernel.
//
//   struct CpuRope {
//     static bool Takes(const RopeTensors& t);   // the eager version takes the rest
//     static void Check(const RopeTensors& t);   // what only this version can check; throws c10::Error
//     template <typename T> static void Run(const RopeTensors& t, at::Tensor& q, at::Tensor& k);
//   };
//   RegisterKernel(&Ops::qkv_rope_write_kv, at::kCPU, FusedDtypes(), QkvRopeWriteKv<CpuRope>, QkvRopeWriteKvSamples);
#ifndef KERNELS_QKV_ROPE_WRITE_KV_H_
#define KERNELS_QKV_ROPE_WRITE_KV_H_

#include <ATen/ATen.h>

#include <optional>
#include <tuple>

#include "kernels/dispatch.h"
#include "kernels/eager/eager.h"
#include "kernels/tensors.h"

namespace automodeld {

// The op's arguments, made dense; undefined where there is none.
struct RopeTensors {
  at::Tensor qkv, q_norm, k_norm, cos_sin, positions, k_cache, v_cache, slots;
  int64_t heads, kv_heads, head_dim;
  double eps, k_scale, v_scale;

  bool changes() const { return cos_sin.defined() || q_norm.defined() || k_norm.defined(); }  // anything of q and k
  int64_t half() const { return cos_sin.defined() ? cos_sin.size(2) : 0; }
};

template <typename T>
const T* DataOrNull(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr<T>() : nullptr;
}

inline bool HasTypeIfAny(const at::Tensor& x, at::ScalarType type) { return !x.defined() || x.scalar_type() == type; }

// Whether norms and caches, if there are any, are of the types and layouts that kernels walk.
inline bool HasPlainNormsAndCaches(const RopeTensors& t) {
  const at::ScalarType type = t.qkv.scalar_type();
  if (t.qkv.dim() != 2 || !HasTypeIfAny(t.q_norm, type) || !HasTypeIfAny(t.k_norm, type)) return false;
  if (!t.slots.defined()) return true;
  const auto plain = [](const at::Tensor& cache) {
    const at::ScalarType held = cache.scalar_type();
    const bool known = held == at::kFloat || held == at::kBFloat16 || held == at::kHalf || held == at::kFloat8_e4m3fn;
    return known && cache.stride(3) == 1 && cache.stride(2) == cache.size(3);
  };
  return plain(t.k_cache) && plain(t.v_cache) && t.k_cache.strides() == t.v_cache.strides();
}

inline void CheckShapes(const RopeTensors& t) {
  const int64_t all_heads = t.heads + 2 * t.kv_heads;
  TORCH_CHECK(t.qkv.size(1) % all_heads == 0, "qkv_rope_write_kv: qkv has ", t.qkv.size(1),
              " columns, expected a multiple of heads + 2 * kv_heads = ", all_heads);
  if (t.q_norm.defined()) CheckShape("qkv_rope_write_kv: q_norm", t.q_norm, {t.head_dim});
  if (t.k_norm.defined()) CheckShape("qkv_rope_write_kv: k_norm", t.k_norm, {t.head_dim});
  if (t.cos_sin.defined()) {
    TORCH_CHECK(2 * t.half() <= t.head_dim, "qkv_rope_write_kv: cos_sin rotates ", 2 * t.half(), " of ", t.head_dim,
                " dimensions");
    CheckShape("qkv_rope_write_kv: positions", t.positions, {t.qkv.size(0)});
  }
  if (t.slots.defined()) CheckShape("qkv_rope_write_kv: kv_slots", t.slots, {t.qkv.size(0)});
}

// As Ops::qkv_rope_write_kv. v, and q and k where nothing changes them, are views of qkv.
template <typename Kernel>
std::tuple<at::Tensor, at::Tensor, at::Tensor> QkvRopeWriteKv(
    const at::Tensor& qkv, int64_t heads, int64_t kv_heads, const std::optional<at::Tensor>& q_norm,
    const std::optional<at::Tensor>& k_norm, double eps, const std::optional<at::Tensor>& cos_sin,
    const at::Tensor& positions, const std::optional<at::Tensor>& k_cache, const std::optional<at::Tensor>& v_cache,
    const std::optional<at::Tensor>& kv_slots, double k_scale, double v_scale) {
  const auto dense = [](const std::optional<at::Tensor>& x) { return IsDefined(x) ? x->contiguous() : at::Tensor(); };
  const RopeTensors t{.qkv = DenseRows(qkv),
                      .q_norm = dense(q_norm),
                      .k_norm = dense(k_norm),
                      .cos_sin = dense(cos_sin),
                      .positions = dense(positions),
                      .k_cache = k_cache.value_or(at::Tensor()),
                      .v_cache = v_cache.value_or(at::Tensor()),
                      .slots = dense(kv_slots),
                      .heads = heads,
                      .kv_heads = kv_heads,
                      .head_dim = qkv.size(-1) / (heads + 2 * kv_heads),
                      .eps = eps,
                      .k_scale = k_scale,
                      .v_scale = v_scale};
  if (!HasPlainNormsAndCaches(t) || !Kernel::Takes(t)) {
    return eager::QkvRopeWriteKv(qkv, heads, kv_heads, q_norm, k_norm, eps, cos_sin, positions, k_cache, v_cache,
                                 kv_slots, k_scale, v_scale);
  }
  CheckShapes(t);
  Kernel::Check(t);
  const int64_t tokens = qkv.size(0);
  const at::Tensor all = t.qkv.as_strided({tokens, heads + 2 * kv_heads, t.head_dim}, {t.qkv.stride(0), t.head_dim, 1});
  at::Tensor q = all.narrow(1, 0, heads), k = all.narrow(1, heads, kv_heads);
  if (t.changes()) {
    q = at::empty({tokens, heads, t.head_dim}, qkv.options());
    k = at::empty({tokens, kv_heads, t.head_dim}, qkv.options());
  }
  if (t.changes() || t.slots.defined()) {
    DispatchFloats("qkv_rope_write_kv", qkv, [&](auto zero) { Kernel::template Run<decltype(zero)>(t, q, k); });
  }
  return {q, k, all.narrow(1, heads + kv_heads, kv_heads)};
}

}  // namespace automodeld

#endif  // KERNELS_QKV_ROPE_WRITE_KV_H_
