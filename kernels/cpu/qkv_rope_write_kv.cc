// For each token and head of q and k: n = x / rms(x) * w (if there is a w), then with halves a, b of the rotated part
//   a' = a cos - b sin;  b' = b cos + a sin
// each product rounded as in eager/qkv_rope_write_kv.cc; k' and v go to the token's cache slot on the way, converted if
// the cache has another type.
// Reads qkv once; writes q, k and the slots. v, and q and k where nothing changes them, are views of qkv.
#include "kernels/qkv_rope_write_kv.h"

#include <cmath>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/kv_cache.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"

namespace automodeld {
namespace {

// Where keys or values of a layer go.
struct CacheSlots {
  char* base = nullptr;
  at::ScalarType type = at::kFloat;  // or kBFloat16, kHalf, kFloat8_e4m3fn
  float write_scale = 1.0f;
};

template <typename T>
struct RopeArgs {
  const T *qkv, *q_norm, *k_norm;    // norms may be null
  const float* cos_sin;              // [max_positions, 2, half]; null: no rotation
  const int64_t *positions, *slots;  // slots may be null
  T *q, *k;                          // null: nothing changes them
  CacheSlots k_cache, v_cache;
  int64_t qkv_stride, heads, kv_heads, head_dim, half;
  int64_t page_size, page_stride, slot_stride;  // strides in elements
  float eps;
};

template <typename T>
struct RopeRows {
  template <int W>
  AUTOMODELD_INLINE static void Normalize(const T* x, const T* weight, float eps, int64_t n, T* y) {
    Floats<W> squares = {};
    for (int64_t i = 0; i < n; i += W) {
      const Floats<W> v = LoadPart<W>(x + i, n - i);
      squares += v * v;
    }
    const float scale = 1.0f / std::sqrt(Sum<W>(squares) / static_cast<float>(n) + eps);
    for (int64_t i = 0; i < n; i += W) {
      const Floats<W> normal = RoundTo<W, T>(LoadPart<W>(x + i, n - i) * scale);
      StorePart<W>(y + i, normal * LoadPart<W>(weight + i, n - i), n - i);
    }
  }

  template <int W>
  AUTOMODELD_INLINE static void Rotate(const T* x, const float* cosine, const float* sine, int64_t half, T* y) {
    for (int64_t i = 0; i < half; i += W) {
      const int64_t left = half - i;
      const Floats<W> a = LoadPart<W>(x + i, left), b = LoadPart<W>(x + half + i, left);
      const Floats<W> c = RoundTo<W, T>(LoadPart<W>(cosine + i, left)), s = RoundTo<W, T>(LoadPart<W>(sine + i, left));
      StorePart<W>(y + i, RoundTo<W, T>(a * c) - RoundTo<W, T>(b * s), left);
      StorePart<W>(y + half + i, RoundTo<W, T>(b * c) + RoundTo<W, T>(a * s), left);
    }
  }

  template <int W>
  AUTOMODELD_INLINE static void Head(const RopeArgs<T>& a, const T* x, const T* weight, const float* cos_sin, T* y) {
    if (weight != nullptr) {
      Normalize<W>(x, weight, a.eps, a.head_dim, y);
      x = y;
    }
    const int64_t rotated = cos_sin != nullptr ? 2 * a.half : 0;
    if (rotated > 0) Rotate<W>(x, cos_sin, cos_sin + a.half, a.half, y);
    if (x != y) std::memcpy(y + rotated, x + rotated, static_cast<size_t>(a.head_dim - rotated) * sizeof(T));
  }

  template <int W, typename Cache>
  AUTOMODELD_INLINE static void Convert(const T* x, int64_t n, float scale, char* slot) {
    Cache* to = reinterpret_cast<Cache*>(slot);
    for (int64_t i = 0; i < n; i += W) StorePart<W>(to + i, LoadPart<W>(x + i, n - i) * scale, n - i);
  }

  // x: a token's keys or values, n of them; offset: of the slot, in elements.
  template <int W>
  AUTOMODELD_INLINE static void Write(const T* x, int64_t n, const CacheSlots& cache, int64_t offset) {
    char* slot = cache.base + offset * static_cast<int64_t>(c10::elementSize(cache.type));
    if (cache.type == c10::CppTypeToScalarType<T>::value) {
      std::memcpy(slot, x, static_cast<size_t>(n) * sizeof(T));
    } else if (cache.type == at::kFloat) {
      Convert<W, float>(x, n, cache.write_scale, slot);
    } else if (cache.type == at::kBFloat16) {
      Convert<W, at::BFloat16>(x, n, cache.write_scale, slot);
    } else if (cache.type == at::kHalf) {
      Convert<W, at::Half>(x, n, cache.write_scale, slot);
    } else {
      Convert<W, at::Float8_e4m3fn>(x, n, cache.write_scale, slot);
    }
  }

  template <int W>
  AUTOMODELD_INLINE static void Run(const RopeArgs<T>* args, int64_t begin, int64_t end) {
    const RopeArgs<T> a = *args;
    const int64_t q_width = a.heads * a.head_dim, kv_width = a.kv_heads * a.head_dim;
    for (int64_t token = begin; token < end; ++token) {
      const T* q = a.qkv + token * a.qkv_stride;
      const T* k = q + q_width;
      const float* cos_sin = a.cos_sin != nullptr ? a.cos_sin + a.positions[token] * 2 * a.half : nullptr;
      if (a.q != nullptr) {
        T *q_out = a.q + token * q_width, *k_out = a.k + token * kv_width;
        for (int64_t d = 0; d < q_width; d += a.head_dim) Head<W>(a, q + d, a.q_norm, cos_sin, q_out + d);
        for (int64_t d = 0; d < kv_width; d += a.head_dim) Head<W>(a, k + d, a.k_norm, cos_sin, k_out + d);
      }
      if (a.slots == nullptr) continue;
      const int64_t slot = a.slots[token];
      const int64_t offset = slot / a.page_size * a.page_stride + slot % a.page_size * a.slot_stride;
      Write<W>(a.q != nullptr ? a.k + token * kv_width : k, kv_width, a.k_cache, offset);
      Write<W>(k + kv_width, kv_width, a.v_cache, offset);
    }
  }
};

void CheckRange(const char* what, const at::Tensor& indices, int64_t end) {
  const int64_t* values = indices.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < indices.numel(); ++i) {
    TORCH_CHECK(values[i] >= 0 && values[i] < end, "qkv_rope_write_kv: ", what, " ", values[i], " is outside 0..",
                end - 1);
  }
}

CacheSlots SlotsOf(const char* scale_name, const at::Tensor& cache, double scale) {
  if (!cache.defined()) return {};
  return {.base = static_cast<char*>(cache.mutable_data_ptr()),
          .type = cache.scalar_type(),
          .write_scale = WriteScale(scale_name, cache.scalar_type(), scale)};
}

struct CpuRope {
  static bool Takes(const RopeTensors&) { return true; }

  static void Check(const RopeTensors& t) {
    if (t.cos_sin.defined()) CheckRange("position", t.positions, t.cos_sin.size(0));
    if (t.slots.defined()) CheckRange("KV slot", t.slots, t.k_cache.size(0) * t.k_cache.size(1));
  }

  template <typename T>
  static void Run(const RopeTensors& t, at::Tensor& q, at::Tensor& k) {
    const bool changes = t.changes(), write = t.slots.defined();
    const RopeArgs<T> args{.qkv = t.qkv.const_data_ptr<T>(),
                           .q_norm = DataOrNull<T>(t.q_norm),
                           .k_norm = DataOrNull<T>(t.k_norm),
                           .cos_sin = DataOrNull<float>(t.cos_sin),
                           .positions = DataOrNull<int64_t>(t.positions),
                           .slots = DataOrNull<int64_t>(t.slots),
                           .q = changes ? q.mutable_data_ptr<T>() : nullptr,
                           .k = changes ? k.mutable_data_ptr<T>() : nullptr,
                           .k_cache = SlotsOf("qkv_rope_write_kv: k_scale", t.k_cache, t.k_scale),
                           .v_cache = SlotsOf("qkv_rope_write_kv: v_scale", t.v_cache, t.v_scale),
                           .qkv_stride = t.qkv.stride(0),
                           .heads = t.heads,
                           .kv_heads = t.kv_heads,
                           .head_dim = t.head_dim,
                           .half = t.half(),
                           .page_size = write ? t.k_cache.size(1) : 1,
                           .page_stride = write ? t.k_cache.stride(0) : 0,
                           .slot_stride = write ? t.k_cache.stride(1) : 0,
                           .eps = static_cast<float>(t.eps)};
    ForRows(t.qkv.size(0), 2 * t.qkv.size(1),
            [&](int64_t begin, int64_t end) { RunSimd<RopeRows<T>>(&args, begin, end); });
  }
};

const bool registered =
    RegisterKernel(&Ops::qkv_rope_write_kv, at::kCPU, FusedDtypes(), QkvRopeWriteKv<CpuRope>, QkvRopeWriteKvSamples);

}  // namespace
}  // namespace automodeld
