// softmax(cap(scale * q k^T) + mask) v for one sequence after the other, in float32: the definition.
#include <limits>
#include <optional>

#include "kernels/attention_backends.h"
#include "kernels/fp8.h"

namespace automodeld {
namespace {

// One sequence's rows, and its pages as a tensor (undefined for ragged).
struct EagerSequence {
  int64_t first_row, num_rows, context;
  at::Tensor pages;
};

// cache: [pages, page_size, kv_heads, head_dim] -> [context, kv_heads, head_dim]
at::Tensor Gather(const at::Tensor& cache, const EagerSequence& sequence) {
  return SelectStored(cache, sequence.pages).flatten(0, 1).narrow(0, 0, sequence.context);
}

// x: [tokens, heads, head_dim] -> [heads, tokens, head_dim] in float32, each head `repeat` times
at::Tensor Heads(const at::Tensor& x, int64_t repeat) {
  return x.to(at::kFloat).repeat_interleave(repeat, 1).transpose(0, 1);
}

// softmax over keys, and over a sink that takes its share of the weights: scores [heads, rows, keys], sinks [heads]
at::Tensor Weights(const at::Tensor& scores, const at::Tensor& sinks) {
  if (!sinks.defined()) return scores.softmax(-1);
  const at::Tensor sink = sinks.to(at::kFloat).view({-1, 1, 1}).expand({-1, scores.size(1), 1});
  return at::cat({scores, sink}, -1).softmax(-1).narrow(-1, 0, scores.size(2));
}

at::Tensor Attend(const AttentionLayer& layer, const AttentionFactors& factors, const at::Tensor& q,
                  const at::Tensor& k, const at::Tensor& v) {
  const int64_t group = layer.num_heads / layer.num_kv_heads;
  at::Tensor scores = at::matmul(Heads(q, 1), Heads(k, group).transpose(1, 2)) * factors.scores;
  if (layer.soft_cap > 0.0) scores = (scores / layer.soft_cap).tanh() * layer.soft_cap;
  const at::Tensor context = at::full({1}, k.size(0), q.options().dtype(at::kLong));
  const at::Tensor mask = AttentionMask(context, q.size(0), k.size(0), layer, scores.options());
  const at::Tensor weights = Weights(scores + mask.squeeze(0), layer.sinks);
  const at::Tensor result = at::matmul(weights, Heads(v, group)) * factors.results;
  return result.transpose(0, 1).flatten(1);
}

class EagerAttention final : public AttentionBackend {
 public:
  explicit EagerAttention(at::Device device) : device_(device) {}

  const std::string& name() const override { return name_; }

  void Plan(const AttentionStep& step) override {
    sequences_.clear();
    for (const SequenceRows& rows : step.paged) {
      const at::Tensor pages = at::empty({(rows.context + step.page_size - 1) / step.page_size}, at::kInt);
      TORCH_CHECK(static_cast<int64_t>(rows.pages.size()) >= pages.size(0), "attention: ", rows.pages.size(),
                  " pages of ", step.page_size, " tokens cannot hold ", rows.context, " tokens");
      std::copy_n(rows.pages.data(), pages.size(0), pages.data_ptr<int32_t>());
      sequences_.push_back({rows.first_row, rows.num_rows, rows.context, pages.to(device_)});
    }
    for (const SequenceRows& rows : step.ragged)
      sequences_.push_back({rows.first_row, rows.num_rows, rows.num_rows, {}});
  }

  LinearInput Run(const AttentionLayer& layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const KvCache* kv) override {
    at::Tensor out = at::zeros({q.size(0), q.size(1) * q.size(2)}, q.options());
    for (const EagerSequence& s : sequences_) {
      const bool paged = s.pages.defined();
      const at::Tensor keys = paged ? Gather(kv->keys(layer.index), s) : k.narrow(0, s.first_row, s.num_rows);
      const at::Tensor values = paged ? Gather(kv->values(layer.index), s) : v.narrow(0, s.first_row, s.num_rows);
      const at::Tensor queries = q.narrow(0, s.first_row, s.num_rows);
      const AttentionFactors factors = FactorsOf(layer, paged ? kv : nullptr);
      out.narrow(0, s.first_row, s.num_rows).copy_(Attend(layer, factors, queries, keys, values));
    }
    return QuantizedIf(layer.quantize, out);
  }

 private:
  const std::string name_ = "eager";
  at::Device device_;
  std::vector<EagerSequence> sequences_;
};

}  // namespace

AttentionOr MakeEagerAttention(const AttentionNeeds& needs) { return std::make_unique<EagerAttention>(needs.device); }

}  // namespace automodeld
