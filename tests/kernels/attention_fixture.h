// A step of made-up sequences with its cache: what attention tests feed to backends.
#ifndef TESTS_KERNELS_ATTENTION_FIXTURE_H_
#define TESTS_KERNELS_ATTENTION_FIXTURE_H_

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/attention.h"

namespace automodeld {

// A sequence: how many of its tokens the step computes, and how many there are then.
struct TestSequence {
  int64_t rows = 1;
  int64_t context = 1;
};

struct TestShape {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
  int64_t heads = 4, kv_heads = 2, head_dim = 64, page_size = 16, window = 0;
  bool causal = true;
  std::optional<at::ScalarType> kv_dtype = {};  // of the cache; none: dtype
  double k_scale = 1.0, v_scale = 1.0;
  double soft_cap = 0.0;
  bool sinks = false;
};

std::string Describe(const TestShape& shape);

// A step's cache has so many layers, of which it uses one: the neighbours in a page belong to others.
inline constexpr int64_t kTestLayers = 3, kTestLayer = 1;

// Of a TestShape, or of another shape that says as much by the same names.
template <typename Shape>
AttentionNeeds NeedsOf(const Shape& s) {
  return {.num_heads = s.heads,
          .num_kv_heads = s.kv_heads,
          .head_dim = s.head_dim,
          .dtype = s.dtype,
          .device = s.device,
          .causal = s.causal,
          .window = s.window > 0,
          .soft_cap = s.soft_cap > 0.0,
          .sinks = s.sinks};
}

template <typename Shape>
AttentionLayer LayerOf(const Shape& s, bool quantize) {
  AttentionLayer layer{.index = kTestLayer,
                       .num_heads = s.heads,
                       .num_kv_heads = s.kv_heads,
                       .head_dim = s.head_dim,
                       .scale = 1.0 / std::sqrt(s.head_dim),
                       .window = s.window,
                       .causal = s.causal,
                       .k_scale = s.k_scale,
                       .v_scale = s.v_scale,
                       .soft_cap = s.soft_cap,
                       .quantize = quantize};
  if (s.sinks) layer.sinks = at::linspace(-3, 4, s.heads, at::TensorOptions(at::kFloat).device(s.device));
  return layer;
}

// Keys and values of `paged` lie in pages in a shuffled order (`page_seed`); every slot nobody may read holds NaN. The
// same `value_seed` gives the same q, k and v whatever the page order, device and dtype, up to rounding.
class TestStep {
 public:
  TestStep(const TestShape& shape, std::vector<TestSequence> paged, std::vector<TestSequence> ragged,
           uint64_t page_seed = 1, uint64_t value_seed = 1);

  // The result of one layer, [tokens, heads * head_dim], float32 on the CPU: Plan, then Launch.
  at::Tensor Run(AttentionBackend& backend) const;
  void Plan(AttentionBackend& backend) const;
  LinearInput Launch(AttentionBackend& backend, bool quantize = false) const;  // into memory that held NaN
  // What the eager backend gives on the CPU in float32, the cache included, for the same values as this cache holds.
  at::Tensor Expected() const;

  // All sequences read the keys and values of one of another step of the same shape, which is at least as long.
  void UseCacheOf(const TestStep& other, size_t sequence);
  // From now on the paged sequences are so long, at most as long as they were made.
  void SetContexts(const std::vector<int64_t>& contexts);
  // From now on the step is one of prompts that is recorded for as many rows as q has, and has these sequences: ragged
  // ones if it was made without paged ones, else paged ones, which read the keys and values of the first.
  void RecordAs(const std::vector<TestSequence>& sequences);
  at::Tensor CachedKeys(size_t sequence) const;  // [context, kv_heads, head_dim]
  at::Tensor CachedValues(size_t sequence) const;

  AttentionNeeds needs() const;
  at::Tensor q, k, v;  // [tokens, heads, head_dim]; rows as in a step

 private:
  void FillCache(const std::vector<TestSequence>& paged, const at::Generator& values);
  at::ScalarType kv_dtype() const { return shape_.kv_dtype.value_or(shape_.dtype); }
  at::Tensor Held(const at::Tensor& x, double scale) const;  // as the cache holds it
  at::Tensor Read(const at::Tensor& x, double scale) const;  // what a cache of float32 holds, as this one gives it
  AttentionStep Step() const;
  at::Tensor Cached(const at::Tensor& cache, size_t sequence) const;

  TestShape shape_;
  std::vector<TestSequence> paged_, ragged_;
  std::vector<std::vector<int32_t>> pages_;
  uint64_t page_seed_, value_seed_;
  int64_t recorded_rows_ = 0;
  std::shared_ptr<KvCache> kv_;
};

}  // namespace automodeld

#endif  // TESTS_KERNELS_ATTENTION_FIXTURE_H_
