#include "core/engine/model_runner_sampler.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "kernels/logit_adjustment.h"

namespace automodeld {

namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

bool IsTooShort(const BatchItem& item) { return item.num_generated < item.request->sampling.min_tokens; }

bool NeedsAdjusting(const BatchItem& item) {
  const SamplingParams& params = item.request->sampling;
  return params.has_penalties() || !params.logit_bias.empty() || (IsTooShort(item) && !params.stop_token_ids.empty());
}

// A request's entries in adjust_logits' bias: a mask is one of minus infinity.
template <typename Visit>
void ForEachBias(const BatchItem& item, const Visit& visit) {
  const SamplingParams& params = item.request->sampling;
  for (const auto& [id, value] : params.logit_bias) visit(id, value);
  if (!IsTooShort(item)) return;
  for (const TokenId id : params.stop_token_ids) visit(id, kMasked);
}

int64_t CountBiases(const std::vector<SampledRow>& rows) {
  int64_t entries = 0;
  for (const SampledRow& row : rows) ForEachBias(*row.item, [&entries](TokenId, float) { ++entries; });
  return entries;
}

template <typename T>
std::span<T> Span(at::Tensor& host) {
  return {host.mutable_data_ptr<T>(), static_cast<size_t>(host.numel())};
}

}  // namespace

void FillColumns(const std::vector<SampledRow>& rows, const SamplingColumns& columns) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const BatchItem& item = *rows[i].item;
    const SamplingParams& params = item.request->sampling;
    columns.temperature[i] = params.temperature;
    columns.top_p[i] = params.top_p;
    columns.min_p[i] = params.min_p;
    columns.top_k[i] = params.top_k;
    columns.seeds[i] = std::bit_cast<int64_t>(params.seed);
    columns.positions[i] = item.position + item.num_tokens;
    columns.slots[i] = item.slot;
  }
}

bool IsPlain(const std::vector<SampledRow>& rows) {
  return std::ranges::none_of(rows, [](const SampledRow& row) {
    return NeedsAdjusting(*row.item) || row.item->request->sampling.logprobs >= 0;
  });
}

SamplingTensors SamplingTensors::Narrow(int64_t rows) const {
  const auto first = [rows](const at::Tensor& t) { return t.narrow(0, 0, rows); };
  return {.temperature = first(temperature),
          .top_p = first(top_p),
          .min_p = first(min_p),
          .top_k = first(top_k),
          .seeds = first(seeds),
          .positions = first(positions),
          .slots = first(slots)};
}

Sampler::Sampler(const Ops& ops, int max_num_seqs, int64_t vocab_size, at::Device device)
    : ops_(ops),
      vocab_size_(vocab_size),
      device_(device),
      last_tokens_(at::zeros({max_num_seqs + 1}, at::TensorOptions(device).dtype(at::kLong))),
      count_rows_(static_cast<size_t>(max_num_seqs), -1) {}

Sampler::Parcel Sampler::MakeParcel(int64_t num_longs, int64_t num_floats) const {
  const auto options = at::TensorOptions().pinned_memory(!device_.is_cpu());
  return {at::empty({num_longs}, options.dtype(at::kLong)), at::empty({num_floats}, options.dtype(at::kFloat))};
}

Sampler::Parcel Sampler::Send(const Parcel& host) const {
  return {host.longs.to(device_, /*non_blocking=*/true), host.floats.to(device_, /*non_blocking=*/true)};
}

int64_t Sampler::AddCountRow() {
  if (free_rows_.empty()) {
    const int64_t rows = counts_.defined() ? counts_.size(0) : 0, slots = static_cast<int64_t>(count_rows_.size());
    const int64_t capacity = std::min(slots, std::max<int64_t>(2 * rows, 1));
    at::Tensor grown = at::empty({capacity, vocab_size_}, at::TensorOptions(device_).dtype(at::kInt));
    if (rows > 0) grown.narrow(0, 0, rows).copy_(counts_);
    counts_ = std::move(grown);
    for (int64_t row = capacity - 1; row >= rows; --row) free_rows_.push_back(row);
  }
  const int64_t row = free_rows_.back();
  free_rows_.pop_back();
  counts_[row].zero_();
  return row;
}

void Sampler::ResetSlot(const BatchItem& item) {
  int64_t& row = count_rows_[static_cast<size_t>(item.slot)];
  if (row >= 0) free_rows_.push_back(row);
  row = -1;
  if (counts_.defined() && static_cast<int64_t>(free_rows_.size()) == counts_.size(0)) {
    counts_ = at::Tensor();
    free_rows_.clear();
  }
  if (item.request->kind != Request::Kind::kGenerate || !item.request->sampling.has_penalties()) return;
  row = AddCountRow();
  Parcel context = MakeParcel(static_cast<int64_t>(item.context.size()), 0);
  std::ranges::copy(item.context, Span<int64_t>(context.longs).begin());
  const auto prompt_size = static_cast<int64_t>(std::min(item.request->prompt.size(), item.context.size()));
  const at::Tensor tokens = Send(context).longs,
                   completion = tokens.narrow(0, prompt_size, tokens.size(0) - prompt_size);
  counts_[row].index_fill_(0, tokens.narrow(0, 0, prompt_size), int64_t{kInPrompt});
  counts_[row].index_add_(0, completion, at::ones_like(completion, at::kInt));
}

at::Tensor Sampler::Adjust(const at::Tensor& logits, const std::vector<SampledRow>& rows,
                           at::Tensor& count_rows) const {
  const auto num_rows = static_cast<int64_t>(rows.size());
  const int64_t num_entries = CountBiases(rows);
  Parcel host = MakeParcel(2 * num_rows + 1 + num_entries, 3 * num_rows + num_entries);
  const std::span<int64_t> longs = Span<int64_t>(host.longs), offsets = longs.subspan(rows.size(), rows.size() + 1),
                           ids = longs.subspan(2 * rows.size() + 1);
  const std::span<float> floats = Span<float>(host.floats), values = floats.subspan(3 * rows.size());
  size_t entry = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const SamplingParams& params = rows[i].item->request->sampling;
    longs[i] = count_rows_[static_cast<size_t>(rows[i].item->slot)];
    floats[i] = params.repetition_penalty;
    floats[rows.size() + i] = params.frequency_penalty;
    floats[2 * rows.size() + i] = params.presence_penalty;
    offsets[i] = static_cast<int64_t>(entry);
    ForEachBias(*rows[i].item, [&](TokenId id, float value) {
      ids[entry] = id;
      values[entry++] = value;
    });
  }
  offsets[rows.size()] = num_entries;

  const Parcel sent = Send(host);
  count_rows = sent.longs.narrow(0, 0, num_rows);
  const at::Tensor none = at::empty({0, vocab_size_}, at::TensorOptions(device_).dtype(at::kInt));
  return ops_.adjust_logits(
      logits, counts_.defined() ? counts_ : none, count_rows,
      sent.floats.narrow(0, 0, 3 * num_rows).view({3, num_rows}), sent.longs.narrow(0, num_rows, num_rows + 1),
      sent.longs.narrow(0, 2 * num_rows + 1, num_entries), sent.floats.narrow(0, 3 * num_rows, num_entries));
}

at::Tensor Sampler::Draw(const at::Tensor& logits, const SamplingTensors& params) {
  at::Tensor tokens =
      ops_.sample(logits, params.temperature, params.top_k, params.top_p, params.min_p, params.seeds, params.positions);
  last_tokens_.index_copy_(0, params.slots, tokens);
  return tokens;
}

SampledTokens Sampler::Sample(const at::Tensor& logits, const SamplingTensors& params,
                              const std::vector<SampledRow>& rows) {
  SampledTokens result;
  std::vector<int64_t> asking;
  int most = -1;
  for (size_t i = 0; i < rows.size(); ++i) {
    const int asked = rows[i].item->request->sampling.logprobs;
    if (asked >= 0) asking.push_back(static_cast<int64_t>(i));
    most = std::max(most, asked);
  }
  at::Tensor asking_rows, log_softmax;  // of the model's own logits, before bias and penalties
  if (most >= 0) {
    Parcel host = MakeParcel(static_cast<int64_t>(asking.size()), 0);
    std::ranges::copy(asking, Span<int64_t>(host.longs).begin());
    asking_rows = Send(host).longs;
    log_softmax = at::log_softmax(logits.index_select(0, asking_rows), -1, at::kFloat);
    std::tie(result.top_logprobs, result.top_tokens) = log_softmax.topk(std::min<int64_t>(most, vocab_size_), -1);
  }
  const bool adjusts = std::ranges::any_of(rows, [](const SampledRow& row) { return NeedsAdjusting(*row.item); });
  at::Tensor count_rows;
  result.tokens = Draw(adjusts ? Adjust(logits, rows, count_rows) : logits, params);
  if (adjusts && counts_.defined()) ops_.count_tokens(counts_, count_rows, result.tokens);
  if (most >= 0) {
    const at::Tensor chosen = result.tokens.index_select(0, asking_rows).unsqueeze(-1);
    result.logprobs = log_softmax.gather(-1, chosen).squeeze(-1);
  }
  return result;
}

}  // namespace automodeld
