#include "tests/kernels/raw_attention_fixture.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "tests/kernels/poisoned_memory.h"

namespace automodeld {
namespace {

constexpr int64_t kPositions = 8192;
constexpr double kEps = 1e-6;

at::Tensor Bytes(const at::Tensor& x) { return x.contiguous().view(at::kByte); }

}  // namespace

std::string Describe(const RawShape& s) {
  return fmt::format("{} {} cache {} heads {}/{} of {}, {} rotated, page {} window {} cap {}{}{}{}", s.device.str(),
                     c10::toString(s.dtype), c10::toString(s.kv_dtype.value_or(s.dtype)), s.heads, s.kv_heads,
                     s.head_dim, s.rotary_dim.value_or(s.head_dim), s.page_size, s.window, s.soft_cap,
                     s.q_norm ? " q norm" : "", s.k_norm ? " k norm" : "", s.sinks ? " sinks" : "");
}

RawStep::RawStep(const RawShape& shape, const std::vector<int64_t>& contexts)
    : shape_(shape), ops_(FindFusedOps(EagerOps(), OpNames(), shape.device, shape.dtype).ops) {
  const at::TensorOptions options = at::TensorOptions(shape.dtype).device(shape.device);
  const auto tokens = static_cast<int64_t>(contexts.size());
  const at::Generator values = at::detail::createCPUGenerator(/*seed=*/1);
  const auto normal = [&](at::IntArrayRef sizes) { return at::randn(sizes, values, at::kFloat); };
  qkv = at::empty({tokens, (shape.heads + 2 * shape.kv_heads) * shape.head_dim}, options);
  if (shape.q_norm) q_norm = normal({shape.head_dim}).to(options);
  if (shape.k_norm) k_norm = normal({shape.head_dim}).to(options);
  const int64_t half = shape.rotary_dim.value_or(shape.head_dim) / 2;
  const at::Tensor angles = at::rand({kPositions, half}, values, at::kFloat) * 6.3;
  if (half > 0) cos_sin = at::stack({angles.cos(), angles.sin()}, 1).to(shape.device);
  positions = at::empty({tokens}, options.dtype(at::kLong));
  slots = at::empty_like(positions);
  int64_t num_pages = 2;  // scratch, and one that nobody owns
  const auto pages_of = [&](int64_t context) { return (context + shape.page_size - 1) / shape.page_size; };
  for (const int64_t context : contexts) num_pages += pages_of(context);
  const at::Tensor ids = at::randperm(num_pages - 1, values, at::kInt) + 1;
  const int32_t* next = ids.const_data_ptr<int32_t>();
  for (const int64_t context : contexts) {
    pages_.emplace_back(next, next + pages_of(context));
    next += pages_of(context);
  }
  for (auto* cache : {&of_two_, &of_raw_}) {
    *cache = std::make_unique<KvCache>(num_pages, kTestLayers, shape.page_size, shape.kv_heads, shape.head_dim,
                                       options.dtype(kv_dtype()));
  }
  SetContexts(contexts);
}

void RawStep::SetContexts(const std::vector<int64_t>& contexts) {
  contexts_ = contexts;
  step = {.paged = {}, .ragged = {}, .page_size = shape_.page_size, .num_decode = std::ssize(contexts)};
  std::vector<int64_t> position, slot;
  for (size_t i = 0; i < contexts.size(); ++i) {
    const int64_t newest = contexts[i] - 1, page = pages_[i][static_cast<size_t>(newest / shape_.page_size)];
    step.paged.push_back({static_cast<int64_t>(i), 1, contexts[i], pages_[i]});
    position.push_back(newest);
    slot.push_back(page * shape_.page_size + newest % shape_.page_size);
  }
  positions.copy_(at::tensor(position, at::kLong));
  slots.copy_(at::tensor(slot, at::kLong));
  const at::Generator values = at::detail::createCPUGenerator(static_cast<uint64_t>(contexts[0]) + 7);
  qkv.copy_(at::randn(qkv.sizes(), values, at::kFloat));
  FillCaches();
}

void RawStep::Pad() {
  static constexpr int32_t kScratch[] = {0};
  for (SequenceRows& rows : step.paged) rows = {rows.first_row, 1, 1, kScratch};
  positions.zero_();
  slots.zero_();
  qkv.copy_(qkv.narrow(0, 0, 1).clone().expand_as(qkv));  // a token of slot 0 each
}

void RawStep::FillCaches() {
  const at::Generator values = at::detail::createCPUGenerator(/*seed=*/3);
  const int64_t slots_of_all = of_two_->num_pages() * shape_.page_size;
  at::Tensor unwritten = at::ones({slots_of_all}, at::kBool);
  for (size_t i = 0; i < contexts_.size(); ++i) {
    for (int64_t key = 0; key + 1 < contexts_[i]; ++key) {
      const int64_t page = pages_[i][static_cast<size_t>(key / shape_.page_size)];
      unwritten.data_ptr<bool>()[page * shape_.page_size + key % shape_.page_size] = false;
    }
  }
  for (const auto* cache : {of_two_.get(), of_raw_.get()}) {
    for (const int64_t layer : {int64_t{0}, int64_t{2}}) {
      StoredBytes(cache->keys(layer)).zero_();
      StoredBytes(cache->values(layer)).zero_();
    }
  }
  for (const bool is_key : {true, false}) {
    const auto view = [&](const KvCache& cache) { return is_key ? cache.keys(kTestLayer) : cache.values(kTestLayer); };
    at::Tensor held = at::randn({slots_of_all, shape_.kv_heads, shape_.head_dim}, values, at::kFloat).to(shape_.dtype);
    held.masked_fill_(unwritten.view({-1, 1, 1}), std::numeric_limits<double>::quiet_NaN());
    const double scale = is_key ? shape_.k_scale : shape_.v_scale;
    held = ToCache(held, kv_dtype(), WriteScale("scale", kv_dtype(), scale)).view(view(*of_two_).sizes());
    for (const auto* cache : {of_two_.get(), of_raw_.get()}) {
      StoredBytes(view(*cache)).copy_(StoredBytes(held));
    }
  }
}

void RawStep::Plan(AttentionBackend& backend) const { backend.Plan(step); }

LinearInput RawStep::RunTwo(AttentionBackend& backend) {
  const auto [q, k, v] = ops_.qkv_rope_write_kv(qkv, shape_.heads, shape_.kv_heads, q_norm, k_norm, kEps, cos_sin,
                                                positions, of_two_->keys(kTestLayer), of_two_->values(kTestLayer),
                                                slots, shape_.k_scale, shape_.v_scale);
  return backend.Run(Layer(), q, k, v, of_two_.get());
}

std::optional<LinearInput> RawStep::RunRaw(AttentionBackend& backend) {
  return RunRaw(backend, ops_.qkv_rope_write_kv.version);
}

std::optional<LinearInput> RawStep::RunRaw(AttentionBackend& backend, const std::string& version) {
  const std::optional<at::Tensor> norm_of_q = q_norm, norm_of_k = k_norm;
  const RawQkv raw{.version = version,
                   .qkv = qkv,
                   .q_norm = norm_of_q,
                   .k_norm = norm_of_k,
                   .eps = kEps,
                   .cos_sin = cos_sin,
                   .positions = positions,
                   .slots = slots};
  const PoisonedMemory poisoned;
  return backend.RunRaw(Layer(), raw, *of_raw_);
}

bool RawStep::CachesAreEqual() const {
  for (int64_t layer = 0; layer < kTestLayers; ++layer) {
    if (!at::equal(Bytes(of_two_->keys(layer)), Bytes(of_raw_->keys(layer)))) return false;
    if (!at::equal(Bytes(of_two_->values(layer)), Bytes(of_raw_->values(layer)))) return false;
  }
  return true;
}

}  // namespace automodeld
