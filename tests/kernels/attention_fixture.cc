#include "tests/kernels/attention_fixture.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "tests/kernels/poisoned_memory.h"

namespace automodeld {
namespace {

int64_t NumPages(const TestSequence& s, int64_t page_size) { return (s.context + page_size - 1) / page_size; }

}  // namespace

std::string Describe(const TestShape& s) {
  return fmt::format("{} {} heads {}/{} head_dim {} page {} window {}{} cache {} scales {} {} cap {}{}", s.device.str(),
                     c10::toString(s.dtype), s.heads, s.kv_heads, s.head_dim, s.page_size, s.window,
                     s.causal ? "" : " not causal", c10::toString(s.kv_dtype.value_or(s.dtype)), s.k_scale, s.v_scale,
                     s.soft_cap, s.sinks ? " sinks" : "");
}

TestStep::TestStep(const TestShape& shape, std::vector<TestSequence> paged, std::vector<TestSequence> ragged,
                   uint64_t page_seed, uint64_t value_seed)
    : shape_(shape),
      paged_(std::move(paged)),
      ragged_(std::move(ragged)),
      page_seed_(page_seed),
      value_seed_(value_seed) {
  const at::Generator generator = at::detail::createCPUGenerator(value_seed);
  int64_t tokens = 0;
  for (const auto& s : paged_) tokens += s.rows;
  for (const auto& s : ragged_) tokens += s.rows;
  const auto make = [&](int64_t heads) {
    return at::randn({tokens, heads, shape.head_dim}, generator, at::kFloat).to(shape.dtype).to(shape.device);
  };
  q = make(shape.heads);
  k = make(shape.kv_heads);
  v = make(shape.kv_heads);
  FillCache(paged_, generator);
}

void TestStep::FillCache(const std::vector<TestSequence>& paged, const at::Generator& values) {
  int64_t num_pages = 2;  // scratch, and one that nobody owns
  for (const auto& s : paged) num_pages += NumPages(s, shape_.page_size);
  kv_ = std::make_shared<KvCache>(num_pages, kTestLayers, shape_.page_size, shape_.kv_heads, shape_.head_dim,
                                  at::TensorOptions().dtype(kv_dtype()).device(shape_.device));
  const at::Tensor nan = at::full({}, std::numeric_limits<double>::quiet_NaN());
  for (int64_t layer = 0; layer < kTestLayers; ++layer) {
    kv_->keys(layer).copy_(nan);
    kv_->values(layer).copy_(nan);
  }
  const at::Generator order = at::detail::createCPUGenerator(page_seed_);
  const at::Tensor ids = at::randperm(num_pages - 1, order, at::kInt) + 1;
  int64_t next = 0;
  for (const auto& s : paged) {
    const int64_t count = NumPages(s, shape_.page_size);
    const int32_t* first = ids.const_data_ptr<int32_t>() + next;
    pages_.emplace_back(first, first + count);
    next += count;
    const auto make = [&] { return at::randn({s.context, shape_.kv_heads, shape_.head_dim}, values).to(shape_.dtype); };
    const at::Tensor keys = Held(make(), shape_.k_scale).to(shape_.device);
    const at::Tensor contents = Held(make(), shape_.v_scale).to(shape_.device);
    for (int64_t begin = 0; begin < s.context; begin += shape_.page_size) {
      const int64_t page = pages_.back()[static_cast<size_t>(begin / shape_.page_size)];
      const int64_t size = std::min(shape_.page_size, s.context - begin);
      kv_->keys(kTestLayer).select(0, page).narrow(0, 0, size).copy_(keys.narrow(0, begin, size));
      kv_->values(kTestLayer).select(0, page).narrow(0, 0, size).copy_(contents.narrow(0, begin, size));
    }
  }
}

at::Tensor TestStep::Held(const at::Tensor& x, double scale) const {
  return ToCache(x, kv_dtype(), WriteScale("scale", kv_dtype(), scale));
}

at::Tensor TestStep::Read(const at::Tensor& x, double scale) const {
  return Held(x.to(shape_.dtype), scale).to(at::kFloat) * ReadScale(kv_dtype(), scale);
}

AttentionStep TestStep::Step() const {
  AttentionStep step{.paged = {}, .ragged = {}, .page_size = shape_.page_size, .num_decode = 0};
  int64_t row = 0;
  for (size_t i = 0; i < paged_.size(); ++i) {
    step.paged.push_back({row, paged_[i].rows, paged_[i].context, pages_[i]});
    if (paged_[i].rows == 1 && static_cast<size_t>(step.num_decode) == i) ++step.num_decode;
    row += paged_[i].rows;
  }
  for (const auto& s : ragged_) {
    step.ragged.push_back({row, s.rows, s.rows, {}});
    row += s.rows;
  }
  step.recorded_rows = recorded_rows_;
  step.recorded_ragged = recorded_rows_ > 0 && pages_.empty();
  if (recorded_rows_ > 0) step.num_decode = 0;
  return step;
}

AttentionNeeds TestStep::needs() const { return NeedsOf(shape_); }

void TestStep::Plan(AttentionBackend& backend) const { backend.Plan(Step()); }

LinearInput TestStep::Launch(AttentionBackend& backend, bool quantize) const {
  const PoisonedMemory poisoned;
  return backend.Run(LayerOf(shape_, quantize), q, k, v, paged_.empty() && recorded_rows_ == 0 ? nullptr : kv_.get());
}

at::Tensor TestStep::Run(AttentionBackend& backend) const {
  Plan(backend);
  const at::Tensor out = Launch(backend).values;
  EXPECT_EQ(out.sizes(), at::IntArrayRef({q.size(0), shape_.heads * shape_.head_dim}));
  EXPECT_EQ(out.scalar_type(), shape_.dtype);
  return out.to(at::kCPU).to(at::kFloat);
}

void TestStep::SetContexts(const std::vector<int64_t>& contexts) {
  for (size_t i = 0; i < contexts.size(); ++i) paged_[i].context = contexts[i];
}

void TestStep::RecordAs(const std::vector<TestSequence>& sequences) {
  recorded_rows_ = q.size(0);
  (pages_.empty() ? ragged_ : paged_) = sequences;
  if (pages_.empty()) return;
  const std::vector<int32_t> first = pages_[0];
  pages_.assign(std::max<size_t>(1, sequences.size()), first);
}

void TestStep::UseCacheOf(const TestStep& other, size_t sequence) {
  kv_ = other.kv_;
  for (auto& pages : pages_) pages = other.pages_[sequence];
}

at::Tensor TestStep::Cached(const at::Tensor& cache, size_t sequence) const {
  const at::Tensor pages = at::tensor(pages_[sequence], at::kInt).to(shape_.device);
  return SelectStored(cache, pages).flatten(0, 1).narrow(0, 0, paged_[sequence].context);
}

at::Tensor TestStep::CachedKeys(size_t sequence) const { return Cached(kv_->keys(kTestLayer), sequence); }
at::Tensor TestStep::CachedValues(size_t sequence) const { return Cached(kv_->values(kTestLayer), sequence); }

at::Tensor TestStep::Expected() const {
  TestShape reference = shape_;
  reference.device = at::kCPU;
  reference.dtype = at::kFloat;
  reference.kv_dtype = at::kFloat;
  TestStep same(reference, paged_, ragged_, page_seed_, value_seed_);
  const auto rounded = [&](const at::Tensor& x) { return x.to(shape_.dtype).to(at::kFloat); };
  same.q = rounded(same.q);
  same.k = rounded(same.k);
  same.v = rounded(same.v);
  same.kv_->keys(kTestLayer).copy_(Read(same.kv_->keys(kTestLayer), shape_.k_scale));
  same.kv_->values(kTestLayer).copy_(Read(same.kv_->values(kTestLayer), shape_.v_scale));
  return same.Run(**MakeAttention("eager", same.needs(), {}));
}

}  // namespace automodeld
