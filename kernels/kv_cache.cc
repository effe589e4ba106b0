#include "kernels/attention.h"

namespace automodeld {
namespace {

constexpr int64_t kKeys = 0, kValues = 1;

}  // namespace

// Pages are left as they come: an untouched page of fresh memory costs nothing, and nobody reads a slot before it is
// written.
KvCache::KvCache(int64_t num_pages, int64_t num_layers, int64_t page_size, int64_t kv_heads, int64_t head_dim,
                 at::TensorOptions options)
    : pages_(at::empty({num_pages, num_layers, 2, page_size, kv_heads, head_dim}, options)) {}

at::Tensor KvCache::keys(int64_t layer) const { return pages_.select(1, layer).select(1, kKeys); }
at::Tensor KvCache::values(int64_t layer) const { return pages_.select(1, layer).select(1, kValues); }

}  // namespace automodeld
