// Attention by libtorch's kernels: pages are gathered into dense keys and values at each step. Decode rows of similar
// length go into one padded call; prompts, and texts of encoders, into one with others of the same lengths.
#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "kernels/attention_backends.h"
#include "kernels/fp8.h"
#include "kernels/sdpa_kernels.h"

namespace automodeld {
namespace {

// Padding is copied and computed for nothing; a further call costs about as much as this many keys.
constexpr int64_t kPaddingPerCall = 64;

// Rows times keys of a call with several prompts: some of libtorch's kernels keep all scores, of every head.
constexpr int64_t kMostScores = 1 << 20;

// Sequences of one call.
struct SdpaGroup {
  int64_t num_rows = 1;  // of each sequence
  int64_t keys = 0;      // of the longest
  at::Tensor rows;       // [batch * num_rows] int64; undefined if contiguous
  at::Tensor contexts;   // [batch] int64
  bool equal = true;     // all contexts are the same
  at::Tensor page;       // [batch * keys] int64: page and offset of each key; undefined for ragged
  at::Tensor offset;
  int64_t first_row = 0;   // of the first sequence
  bool contiguous = true;  // rows follow one another
};

at::Tensor Longs(const std::vector<int64_t>& values, at::Device device) {
  return at::tensor(values, at::kLong).to(device);
}

// Keys past a sequence's end repeat its first one: what lies in the cache there may be another sequence's NaN.
void AddKeys(const SequenceRows& rows, int64_t keys, int64_t page_size, std::vector<int64_t>& page,
             std::vector<int64_t>& offset) {
  TORCH_CHECK(static_cast<int64_t>(rows.pages.size()) * page_size >= rows.context, "attention: ", rows.pages.size(),
              " pages of ", page_size, " tokens cannot hold ", rows.context, " tokens");
  for (int64_t t = 0; t < keys; ++t) {
    const int64_t token = t < rows.context ? t : 0;
    page.push_back(rows.pages[static_cast<size_t>(token / page_size)]);
    offset.push_back(token % page_size);
  }
}

// A ragged sequence attends to its own rows.
int64_t KeysOf(const SequenceRows& s, bool ragged) { return ragged ? s.num_rows : s.context; }

// Sequences with as many rows each.
SdpaGroup MakeGroup(std::span<const SequenceRows> sequences, bool ragged, int64_t page_size, at::Device device) {
  SdpaGroup group;
  group.num_rows = sequences[0].num_rows;
  group.first_row = sequences[0].first_row;
  std::vector<int64_t> rows, contexts, page, offset;
  for (const SequenceRows& s : sequences) group.keys = std::max(group.keys, KeysOf(s, ragged));
  for (const SequenceRows& s : sequences) {
    group.contiguous = group.contiguous && s.first_row == group.first_row + std::ssize(rows);
    for (int64_t i = 0; i < s.num_rows; ++i) rows.push_back(s.first_row + i);
    contexts.push_back(KeysOf(s, ragged));
    group.equal = group.equal && contexts.back() == group.keys;
    if (!ragged) AddKeys(s, group.keys, page_size, page, offset);
  }
  if (!group.contiguous) group.rows = Longs(rows, device);
  group.contexts = Longs(contexts, device);
  if (ragged) return group;
  group.page = Longs(page, device);
  group.offset = Longs(offset, device);
  return group;
}

// The rows of a group's sequences out of x [tokens, heads, head_dim]: [batch, heads, num_rows, head_dim].
at::Tensor Take(const SdpaGroup& group, const at::Tensor& x) {
  const int64_t batch = group.contexts.size(0);
  const at::Tensor rows =
      group.contiguous ? x.narrow(0, group.first_row, batch * group.num_rows) : x.index_select(0, group.rows);
  return rows.unflatten(0, {batch, group.num_rows}).transpose(1, 2);
}

// cache: [pages, page_size, kv_heads, head_dim] -> [batch, kv_heads, keys, head_dim] as `dtype`
at::Tensor Gather(const at::Tensor& cache, const SdpaGroup& group, at::ScalarType dtype) {
  const int64_t width = cache.size(2) * cache.size(3);  // a slot is a row of a table that starts at the view
  const int64_t page_rows = cache.stride(0) / width;
  const at::Tensor table =
      cache.as_strided({(cache.size(0) - 1) * page_rows + cache.size(1), width}, {width, 1}, cache.storage_offset());
  return SelectStored(table, group.page * page_rows + group.offset)
      .to(dtype)
      .view({group.contexts.size(0), group.keys, cache.size(2), cache.size(3)})
      .transpose(1, 2);
}

class SdpaAttention final : public AttentionBackend {
 public:
  SdpaAttention(SdpaKernel kernel, at::Device device) : kernel_(std::move(kernel)), device_(device) {}

  const std::string& name() const override { return kernel_.name; }

  void Plan(const AttentionStep& step) override {
    groups_.clear();
    masks_.clear();
    PlanDecode({step.paged.begin(), step.paged.begin() + step.num_decode}, step.page_size);
    PlanPrompts({step.paged.begin() + step.num_decode, step.paged.end()}, /*ragged=*/false, step.page_size);
    PlanPrompts(step.ragged, /*ragged=*/true, step.page_size);
  }

  LinearInput Run(const AttentionLayer& layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const KvCache* kv) override {
    at::Tensor out = at::zeros({q.size(0), q.size(1) * q.size(2)}, q.options());
    for (size_t i = 0; i < groups_.size(); ++i) {
      at::Tensor result = kernel_.function(Call(layer, i, q, k, v, kv));  // [batch, heads, rows, head_dim]
      const double factor = FactorsOf(layer, groups_[i].page.defined() ? kv : nullptr).results;
      if (factor != 1.0) result = result * factor;
      Write(groups_[i], result.transpose(1, 2).reshape({-1, out.size(1)}), out);
    }
    return QuantizedIf(layer.quantize, out);
  }

 private:
  // In the order of their lengths if these differ much, so that a group's longest is at most about twice its shortest.
  void PlanDecode(std::vector<SequenceRows> decode, int64_t page_size) {
    const auto limit = [](const SequenceRows& s) { return 2 * s.context + kPaddingPerCall; };
    const auto shorter = [](const SequenceRows& a, const SequenceRows& b) { return a.context < b.context; };
    const auto [shortest, longest] = std::minmax_element(decode.begin(), decode.end(), shorter);
    if (!decode.empty() && longest->context > limit(*shortest)) {
      std::stable_sort(decode.begin(), decode.end(), shorter);
    }
    for (size_t begin = 0, end = 0; begin < decode.size(); begin = end) {
      while (end < decode.size() && decode[end].context <= limit(decode[begin])) ++end;
      groups_.push_back(MakeGroup({&decode[begin], end - begin}, /*ragged=*/false, page_size, device_));
    }
  }

  void PlanPrompts(std::vector<SequenceRows> prompts, bool ragged, int64_t page_size) {
    const auto lengths = [ragged](const SequenceRows& s) { return std::pair(s.num_rows, KeysOf(s, ragged)); };
    std::ranges::stable_sort(prompts, {}, lengths);
    for (size_t begin = 0, end = 0; begin < prompts.size(); begin = end) {
      const auto [rows, keys] = lengths(prompts[begin]);
      const auto most = static_cast<size_t>(std::max<int64_t>(1, kMostScores / std::max<int64_t>(1, rows * keys)));
      while (end < prompts.size() && end - begin < most && lengths(prompts[end]) == lengths(prompts[begin])) ++end;
      groups_.push_back(MakeGroup({&prompts[begin], end - begin}, ragged, page_size, device_));
    }
  }

  SdpaCall Call(const AttentionLayer& layer, size_t index, const at::Tensor& q, const at::Tensor& k,
                const at::Tensor& v, const KvCache* kv) {
    const SdpaGroup& group = groups_[index];
    const bool paged = group.page.defined();
    const double scale = FactorsOf(layer, paged ? kv : nullptr).scores;
    SdpaCall call{.q = Take(group, q), .k = {}, .v = {}, .mask = {}, .causal = false, .scale = scale};
    if (paged) {
      call.k = Gather(kv->keys(layer.index), group, q.scalar_type());
      call.v = Gather(kv->values(layer.index), group, q.scalar_type());
    } else {
      call.k = Take(group, k);
      call.v = Take(group, v);
    }
    const bool window = layer.window > 0 && layer.window < group.keys;
    const bool all_seen = group.equal && !window && (group.num_rows == 1 || !layer.causal);
    call.causal = !all_seen && group.equal && !window && group.num_rows == group.keys;
    if (!all_seen && !call.causal) call.mask = Mask(layer, index, q.options());
    return call;
  }

  static void Write(const SdpaGroup& group, const at::Tensor& result, at::Tensor& out) {
    if (group.contiguous) {
      out.narrow(0, group.first_row, result.size(0)).copy_(result);
    } else {
      out.index_copy_(0, group.rows, result);
    }
  }

  // Layers with the same window share a mask.
  const at::Tensor& Mask(const AttentionLayer& layer, size_t index, at::TensorOptions options) {
    at::Tensor& mask = masks_[{index, layer.window, layer.causal}];
    const SdpaGroup& group = groups_[index];
    if (!mask.defined()) mask = AttentionMask(group.contexts, group.num_rows, group.keys, layer, options);
    return mask;
  }

  SdpaKernel kernel_;
  at::Device device_;
  std::vector<SdpaGroup> groups_;
  std::map<std::tuple<size_t, int64_t, bool>, at::Tensor> masks_;  // of this step
};

}  // namespace

AttentionOr MakeSdpaAttention(const AttentionNeeds& needs, std::span<const SdpaBackend> order) {
  if (absl::Status status = RefuseCapAndSinks("sdpa", needs); !status.ok()) return status;
  absl::StatusOr<SdpaKernel> kernel = ChooseSdpaKernel(needs, order);
  if (!kernel.ok()) return kernel.status();
  return std::make_unique<SdpaAttention>(*std::move(kernel), needs.device);
}

}  // namespace automodeld
