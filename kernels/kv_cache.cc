#include "kernels/kv_cache.h"

#include <vector>

#include "kernels/fp8.h"

namespace automodeld {
namespace {

constexpr int64_t kKeys = 0, kValues = 1;

std::shared_ptr<KvRange> ReserveIn(KvArena& arena, int64_t least_pages, int64_t num_pages, int64_t page_bytes) {
  std::shared_ptr<KvRange> range = arena.Reserve(page_bytes, num_pages);
  TORCH_CHECK(range->EnsureMapped(least_pages), least_pages, " pages of ", page_bytes, " bytes are needed, memory for ",
              range->mapped_pages(), " was found, and ", arena.budget().Free(), " bytes are left");
  return range;
}

// A tensor over a range, which lives as long as any view of it.
at::Tensor TensorOver(const std::shared_ptr<KvRange>& range, at::IntArrayRef sizes, at::TensorOptions options) {
  return at::for_blob(range->data(), sizes)
      .deleter([range](void*) {})
      .options(options)
      .target_device(options.device())
      .make_tensor();
}

}  // namespace

// Pages are left as they come: an untouched page of fresh memory costs nothing, and nobody reads a slot before it is
// written.
KvCache::KvCache(int64_t num_pages, int64_t num_layers, int64_t page_size, int64_t kv_heads, int64_t head_dim,
                 at::TensorOptions options)
    : pages_(at::empty({num_pages, num_layers, 2, page_size, kv_heads, head_dim}, options)) {}

KvCache::KvCache(KvArena* arena, int64_t least_pages, int64_t num_pages, int64_t num_layers, int64_t page_size,
                 int64_t kv_heads, int64_t head_dim, at::TensorOptions options) {
  const std::vector<int64_t> sizes = {num_pages, num_layers, 2, page_size, kv_heads, head_dim};
  if (arena != nullptr) {
    const int64_t page_bytes =
        c10::multiply_integers(sizes.begin() + 1, sizes.end()) * static_cast<int64_t>(options.dtype().itemsize());
    range_ = ReserveIn(*arena, least_pages, num_pages, page_bytes);
  }
  pages_ = range_ == nullptr ? at::empty(sizes, options) : TensorOver(range_, sizes, options);
}

void KvCache::RequestPages(int64_t pages) {
  if (range_ != nullptr) range_->Request(pages);
}

at::Tensor KvCache::keys(int64_t layer) const { return pages_.select(1, layer).select(1, kKeys); }
at::Tensor KvCache::values(int64_t layer) const { return pages_.select(1, layer).select(1, kValues); }

double ReadScale(at::ScalarType type, double scale) { return type == at::kFloat8_e4m3fn ? scale : 1.0; }

float WriteScale(const char* what, at::ScalarType type, double scale) {
  if (type != at::kFloat8_e4m3fn) return 1.0f;
  TORCH_CHECK(scale >= kMinKvScale && scale <= kMaxKvScale, what, ": ", scale, " is outside 1e-30..1e30");
  return static_cast<float>(1.0 / scale);
}

at::Tensor ToCache(const at::Tensor& x, at::ScalarType type, float write_scale) {
  if (type != at::kFloat8_e4m3fn) return x.to(type);
  return (x.to(at::kFloat) * static_cast<double>(write_scale)).clamp(-kMaxE4m3, kMaxE4m3).to(type);
}

at::Tensor StoredBytes(const at::Tensor& x) { return x.scalar_type() == at::kFloat8_e4m3fn ? x.view(at::kByte) : x; }

at::Tensor SelectStored(const at::Tensor& x, const at::Tensor& index) {
  return StoredBytes(x).index_select(0, index).view(x.scalar_type());
}

}  // namespace automodeld
