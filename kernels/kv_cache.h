// Paged keys and values of all layers, of the model's dtype or of another: float32, float16, bfloat16, float8_e4m3fn.
//
//   KvCache cache(num_pages, num_layers, 16, kv_heads, head_dim, at::TensorOptions(at::kFloat8_e4m3fn).device(device));
//   const float write_scale = WriteScale("k_scale", cache.dtype(), k_scale);
//   StoredBytes(cache.keys(0))[page][offset].copy_(StoredBytes(ToCache(k, cache.dtype(), write_scale)));
//
//   KvCache(DeviceMemory::Of(device).arena(), least_pages, num_pages, …)   // memory comes as pages are asked for
//
// A float8_e4m3fn cache holds x / scale, with one scale for the keys and one for the values of a layer: rounded to
// nearest even, beyond +-448 (infinities too) 448, NaN as NaN; reading gives what is held times the scale. The other
// types hold x itself, rounded as libtorch rounds, and have no scales: whatever is given as one is not looked at.
#ifndef KERNELS_KV_CACHE_H_
#define KERNELS_KV_CACHE_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>

#include "kernels/kv_arena.h"

namespace automodeld {

// Page-major: a page holds K and V of every layer in one contiguous piece.
class KvCache {
 public:
  // All of it in memory of libtorch's.
  KvCache(int64_t num_pages, int64_t num_layers, int64_t page_size, int64_t kv_heads, int64_t head_dim,
          at::TensorOptions options);

  // In the arena of `options`' device, which must outlive every view: pages from mapped_pages() on have no memory and
  // may not be touched. The first `least_pages` have. A null arena: as above. Throws c10::Error where they do not fit.
  KvCache(KvArena* arena, int64_t least_pages, int64_t num_pages, int64_t num_layers, int64_t page_size,
          int64_t kv_heads, int64_t head_dim, at::TensorOptions options);

  at::Tensor keys(int64_t layer) const;    // view [pages, page_size, kv_heads, head_dim], strided
  at::Tensor values(int64_t layer) const;  // the same shape
  int64_t page_size() const { return pages_.size(3); }
  at::ScalarType dtype() const { return pages_.scalar_type(); }
  int64_t bytes() const { return static_cast<int64_t>(pages_.nbytes()); }  // of all pages, with memory or without

  int64_t num_pages() const { return pages_.size(0); }
  int64_t mapped_pages() const { return range_ == nullptr ? num_pages() : range_->mapped_pages(); }
  // KvRange::Request; nothing where the arena has no part in it.
  void RequestPages(int64_t pages);

 private:
  std::shared_ptr<KvRange> range_;  // null: memory of libtorch's
  at::Tensor pages_;                // [pages, layers, 2, page_size, kv_heads, head_dim]
};

// What a scale may be, so that neither it nor its reciprocal leaves float32.
inline constexpr double kMinKvScale = 1e-30, kMaxKvScale = 1e30;

// By what to multiply elements read from a cache of `type`: the scale, or 1 for a type without scales.
double ReadScale(at::ScalarType type, double scale);

// By what to multiply in float32 before rounding to `type`: 1 / scale, or 1. Throws c10::Error that names `what` if a
// scale that counts is outside 1e-30..1e30.
float WriteScale(const char* what, at::ScalarType type, double scale);

// x, of any float type, as a cache of `type` holds it; write_scale as from WriteScale. The definition of rounding.
at::Tensor ToCache(const at::Tensor& x, at::ScalarType type, float write_scale);

// A view of float8_e4m3fn as bytes, which libtorch can index on every device; of another type x itself.
at::Tensor StoredBytes(const at::Tensor& x);

// Entries `index` of x's first dimension, of x's type.
at::Tensor SelectStored(const at::Tensor& x, const at::Tensor& index);

}  // namespace automodeld

#endif  // KERNELS_KV_CACHE_H_
