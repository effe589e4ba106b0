#include "core/engine/model_runner_sampler.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <span>

namespace automodeld {

namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

at::Tensor Tokens(std::span<const TokenId> ids) {
  return at::tensor(at::ArrayRef<TokenId>(ids.data(), ids.size()), at::kInt).to(at::kLong);
}

bool NeedsAdjusting(const BatchItem& item) {
  const SamplingParams& params = item.request->sampling;
  return params.has_penalties() || !params.logit_bias.empty() ||
         (item.num_generated < params.min_tokens && !params.stop_token_ids.empty());
}

int MostLogprobs(const std::vector<SampledRow>& rows) {
  int most = -1;
  for (const SampledRow& row : rows) most = std::max(most, row.item->request->sampling.logprobs);
  return most;
}

}  // namespace

Sampler::Sampler(const Ops& ops, int max_num_seqs, int64_t vocab_size, at::Device device)
    : ops_(ops),
      vocab_size_(vocab_size),
      device_(device),
      last_tokens_(at::zeros({max_num_seqs}, at::TensorOptions(device).dtype(at::kLong))),
      counts_(static_cast<size_t>(max_num_seqs)) {}

at::Tensor Sampler::ToDevice(const at::Tensor& host) const {
  return device_.is_cpu() ? host : host.pin_memory().to(device_, /*non_blocking=*/true);
}

void Sampler::ResetSlot(const BatchItem& item) {
  Counts& counts = counts_[static_cast<size_t>(item.slot)];
  counts = Counts{};
  if (item.request->kind != Request::Kind::kGenerate || !item.request->sampling.has_penalties()) return;
  const size_t prompt_size = std::min(item.request->prompt.size(), item.context.size());
  const at::Tensor prompt = ToDevice(Tokens(item.context.first(prompt_size)));
  const at::Tensor completion = ToDevice(Tokens(item.context.subspan(prompt_size)));
  const at::TensorOptions options(device_);
  counts.in_prompt = at::zeros({vocab_size_}, options.dtype(at::kBool)).index_fill_(0, prompt, true);
  counts.in_completion = at::zeros({vocab_size_}, options.dtype(at::kInt));
  counts.in_completion.index_add_(0, completion, at::ones_like(completion, at::kInt));
}

void Sampler::Penalise(at::Tensor logits, const SamplingParams& params, const Counts& counts) const {
  const at::Tensor made = counts.in_completion > 0;
  if (params.repetition_penalty != 1.0F) {
    const at::Tensor scaled =
        at::where(logits > 0, logits / params.repetition_penalty, logits * params.repetition_penalty);
    logits.copy_(at::where(made.logical_or(counts.in_prompt), scaled, logits));
  }
  logits.sub_(counts.in_completion * params.frequency_penalty + made * params.presence_penalty);
}

void Sampler::Adjust(at::Tensor logits, const BatchItem& item) {
  const SamplingParams& params = item.request->sampling;
  if (!params.logit_bias.empty()) {
    std::vector<TokenId> ids;
    std::vector<float> values;
    for (const auto& [id, value] : params.logit_bias) {
      ids.push_back(id);
      values.push_back(value);
    }
    logits.index_add_(0, ToDevice(Tokens(ids)), ToDevice(at::tensor(values, at::kFloat)));
  }
  if (params.has_penalties()) Penalise(logits, params, counts_[static_cast<size_t>(item.slot)]);
  if (item.num_generated < params.min_tokens && !params.stop_token_ids.empty()) {
    logits.index_fill_(0, ToDevice(Tokens(params.stop_token_ids)), kMasked);
  }
}

at::Tensor Sampler::Draw(const at::Tensor& logits, const std::vector<SampledRow>& rows) const {
  std::vector<float> temperature, top_p, min_p;
  std::vector<int64_t> top_k, seeds, positions;
  for (const SampledRow& row : rows) {
    const SamplingParams& params = row.item->request->sampling;
    temperature.push_back(params.temperature);
    top_p.push_back(params.top_p);
    min_p.push_back(params.min_p);
    top_k.push_back(params.top_k);
    seeds.push_back(std::bit_cast<int64_t>(params.seed));
    positions.push_back(row.item->position + row.item->num_tokens);
  }
  const auto floats = [this](const std::vector<float>& v) { return ToDevice(at::tensor(v, at::kFloat)); };
  const auto longs = [this](const std::vector<int64_t>& v) { return ToDevice(at::tensor(v, at::kLong)); };
  return ops_.sample(logits, floats(temperature), longs(top_k), floats(top_p), floats(min_p), longs(seeds),
                     longs(positions));
}

SampledTokens Sampler::Sample(at::Tensor logits, const std::vector<SampledRow>& rows) {
  SampledTokens result;
  const int most = MostLogprobs(rows);
  at::Tensor log_softmax;  // of the model's own logits, before bias and penalties
  if (most >= 0) {
    log_softmax = at::log_softmax(logits, -1, at::kFloat);
    std::tie(result.top_logprobs, result.top_tokens) = log_softmax.topk(std::min<int64_t>(most, vocab_size_), -1);
  }
  if (std::any_of(rows.begin(), rows.end(), [](const SampledRow& row) { return NeedsAdjusting(*row.item); })) {
    logits = logits.to(at::kFloat);
  }
  std::vector<int64_t> slots;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (NeedsAdjusting(*rows[i].item)) Adjust(logits[static_cast<int64_t>(i)], *rows[i].item);
    slots.push_back(rows[i].item->slot);
  }
  result.tokens = Draw(logits, rows);
  last_tokens_.index_copy_(0, ToDevice(at::tensor(slots, at::kLong)), result.tokens);
  if (most >= 0) result.logprobs = log_softmax.gather(-1, result.tokens.unsqueeze(-1)).squeeze(-1);
  for (size_t i = 0; i < rows.size(); ++i) {
    const Counts& counts = counts_[static_cast<size_t>(rows[i].item->slot)];
    if (!counts.in_completion.defined()) continue;
    counts.in_completion.index_add_(0, result.tokens.narrow(0, static_cast<int64_t>(i), 1),
                                    at::ones({1}, counts.in_completion.options()));
  }
  return result;
}

}  // namespace automodeld
