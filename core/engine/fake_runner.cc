#include "core/engine/fake_runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/engine/admission.h"
#include "core/status.h"

namespace automodeld {
namespace {

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15ULL;
  return hash ^ (hash >> 29);
}

uint64_t HashTokens(std::span<const TokenId> tokens) {
  uint64_t hash = 0;
  for (const TokenId token : tokens) hash = Mix(hash, static_cast<uint64_t>(token) + 1);
  return hash;
}

std::vector<float> EmbedTokens(const Request& request, std::span<const TokenId> tokens, int hidden_size) {
  const int dimensions = request.embed.dimensions > 0 ? request.embed.dimensions : hidden_size;
  std::vector<float> values;
  uint64_t hash = HashTokens(tokens);
  float squares = 0;
  for (int i = 0; i < dimensions; ++i) {
    hash = Mix(hash, static_cast<uint64_t>(i) + 1);
    values.push_back(static_cast<float>(hash % 1999) / 1000.0F - 1.0F);
    squares += values.back() * values.back();
  }
  const float length = request.embed.normalize ? std::max(std::sqrt(squares), 1e-6F) : 1.0F;
  for (float& value : values) value /= length;
  return values;
}

TokenLogprob FakeLogprob(const Request& request, TokenId token) {
  TokenLogprob logprob{token, -0.5F, {}};
  for (int i = 0; i < request.sampling.logprobs; ++i) {
    logprob.top.emplace_back(token + i, -0.5F - static_cast<float>(i));
  }
  return logprob;
}

std::vector<FakeItem> Describe(const std::vector<BatchItem>& items) {
  std::vector<FakeItem> described;
  described.reserve(items.size());
  for (const BatchItem& item : items) {
    described.push_back({item.request->id, item.request->index, item.slot, item.first, item.position, item.num_tokens,
                         item.last, static_cast<int>(item.pages.size())});
  }
  return described;
}

// Writes "slot 3: position 5, expected 4".
absl::Status Equal(const BatchItem& item, const char* what, int64_t got, int64_t expected) {
  if (got == expected) return absl::OkStatus();
  return absl::InternalError(fmt::format("slot {}: {} {}, expected {}", item.slot, what, got, expected));
}

}  // namespace

NextToken HashedTokens(int vocab_size) {
  return [vocab_size](const Request& request, std::span<const TokenId> context) {
    const uint64_t seed = request.sampling.temperature == 0.0F ? 0 : request.sampling.seed;
    return static_cast<TokenId>(Mix(HashTokens(context), seed) % static_cast<uint64_t>(vocab_size));
  };
}

NextToken HashedTokensThenEos(int vocab_size, TokenId eos, int length) {
  return [hashed = HashedTokens(vocab_size), vocab_size, eos, length](const Request& request,
                                                                      std::span<const TokenId> context) {
    const TokenId token = hashed(request, context);
    if (context.size() - request.prompt.size() + 1 == static_cast<size_t>(length)) return eos;
    return token == eos ? (token + 1) % vocab_size : token;
  };
}

NextToken ScriptedTokens(std::vector<TokenId> script) {
  return [script = std::move(script)](const Request& request, std::span<const TokenId> context) {
    return script[std::min(script.size() - 1, context.size() - request.prompt.size())];
  };
}

int FakeBatch::num_tokens() const {
  int total = static_cast<int>(decode.size());
  for (const FakeItem& item : prefill) total += item.num_tokens;
  for (const FakeItem& item : ragged) total += item.num_tokens;
  return total;
}

void FakeSteps::Hold() {
  const std::lock_guard lock(mutex_);
  num_released_ = num_ended_;
}

void FakeSteps::Release() {
  const std::lock_guard lock(mutex_);
  num_released_ = INT64_MAX;
  changed_.notify_all();
}

void FakeSteps::ReleaseSteps(int count) {
  const std::lock_guard lock(mutex_);
  if (num_released_ != INT64_MAX) num_released_ += count;
  changed_.notify_all();
}

void FakeSteps::AwaitLaunched(int64_t count) const {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return num_launched_ >= count; });
}

int64_t FakeSteps::num_launched() const {
  const std::lock_guard lock(mutex_);
  return num_launched_;
}

std::vector<FakeBatch> FakeSteps::batches() const {
  const std::lock_guard lock(mutex_);
  return batches_;
}

std::vector<std::string> FakeSteps::violations() const {
  const std::lock_guard lock(mutex_);
  return violations_;
}

void FakeSteps::Forget() {
  const std::lock_guard lock(mutex_);
  batches_.clear();
}

int64_t FakeSteps::Launched(FakeBatch batch) {
  const std::lock_guard lock(mutex_);
  batches_.push_back(std::move(batch));
  changed_.notify_all();
  return num_launched_++;
}

void FakeSteps::Violated(const std::string& what) {
  const std::lock_guard lock(mutex_);
  violations_.push_back(fmt::format("step {}: {}", num_launched_, what));
}

void FakeSteps::Ended(int64_t step) {
  const std::lock_guard lock(mutex_);
  num_ended_ = std::max(num_ended_, step + 1);
}

bool FakeSteps::AllEnded() const {
  const std::lock_guard lock(mutex_);
  return num_ended_ == num_launched_;
}

void FakeSteps::AwaitRelease(int64_t step) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return step < num_released_; });
  num_ended_ = std::max(num_ended_, step + 1);
}

class FakeStep : public LaunchedStep {
 public:
  FakeStep(std::shared_ptr<FakeSteps> steps, int64_t number, absl::StatusOr<StepOutput> output)
      : steps_(std::move(steps)), number_(number), output_(std::move(output)) {}

  absl::StatusOr<StepOutput> Wait() override {
    steps_->AwaitRelease(number_);
    return std::move(output_);
  }

 private:
  const std::shared_ptr<FakeSteps> steps_;
  const int64_t number_;
  absl::StatusOr<StepOutput> output_;
};

FakeRunner::FakeRunner(FakeRunnerOptions options)
    : options_(std::move(options)),
      slots_(static_cast<size_t>(limits().max_num_seqs)),
      mapped_pages_(options_.grant ? limits().least_pages() : limits().num_pages),
      kv_(static_cast<size_t>(limits().num_pages) * static_cast<size_t>(limits().page_size), -1),
      slot_used_at_(static_cast<size_t>(limits().max_num_seqs)),
      page_used_at_(static_cast<size_t>(limits().num_pages)) {}

absl::StatusOr<std::unique_ptr<LaunchedStep>> FakeRunner::Launch(const Batch& batch) {
  if (absl::Status status = Check(batch); !status.ok()) {
    steps_->Violated(std::string(status.message()));
    return status;
  }
  const int64_t step = steps_->Launched({Describe(batch.decode), Describe(batch.prefill), Describe(batch.ragged)});
  if (step == options_.fail_launch_at) {
    steps_->Ended(step);
    return absl::InternalError("out of luck at launch");
  }
  StepOutput output;
  for (const auto* segment : {&batch.decode, &batch.prefill, &batch.ragged}) {
    for (const BatchItem& item : *segment) output.items.push_back(Run(item));
  }
  if (step == options_.fail_wait_at) {
    return std::make_unique<FakeStep>(steps_, step, absl::InternalError("out of luck while running"));
  }
  return std::make_unique<FakeStep>(steps_, step, std::move(output));
}

void FakeRunner::RequestPages(int pages) {
  if (!options_.grant) return;
  const int wanted = std::clamp(pages, limits().least_pages(), limits().num_pages);
  if (wanted > mapped_pages_) {
    mapped_pages_ = std::clamp(options_.grant(mapped_pages_, wanted), mapped_pages_, wanted);
  } else if (wanted < mapped_pages_) {
    if (!steps_->AllEnded()) steps_->Violated("pages given back beneath a step");
    mapped_pages_ = wanted;
    std::fill(kv_.begin() + static_cast<std::ptrdiff_t>(wanted) * limits().page_size, kv_.end(), -1);
  }
}

absl::Status FakeRunner::Check(const Batch& batch) {
  ++num_checked_;
  int num_tokens = 0;
  for (const auto* segment : {&batch.decode, &batch.prefill, &batch.ragged}) {
    for (const BatchItem& item : *segment) {
      if (item.slot < 0 || item.slot >= limits().max_num_seqs) return Equal(item, "slot", item.slot, 0);
      if (std::exchange(slot_used_at_[static_cast<size_t>(item.slot)], num_checked_) == num_checked_) {
        return absl::InternalError(fmt::format("slot {}: twice in a batch", item.slot));
      }
      RETURN_IF_ERROR(CheckSlot(item, segment == &batch.decode));
      if (segment != &batch.ragged) RETURN_IF_ERROR(CheckPages(item));
      num_tokens += item.num_tokens;
    }
  }
  if (num_tokens <= limits().max_num_batched_tokens) return absl::OkStatus();
  return absl::InternalError(fmt::format("{} tokens, budget {}", num_tokens, limits().max_num_batched_tokens));
}

absl::Status FakeRunner::CheckPages(const BatchItem& item) {
  const int needed = item.position + item.num_tokens;
  if (static_cast<int64_t>(item.pages.size()) * limits().page_size < needed) {
    return absl::InternalError(fmt::format("slot {}: {} pages for {} tokens", item.slot, item.pages.size(), needed));
  }
  for (const PageId page : item.pages) {
    if (page <= 0 || page >= mapped_pages_) return Equal(item, "page", page, 1);
    if (std::exchange(page_used_at_[static_cast<size_t>(page)], num_checked_) == num_checked_) {
      return absl::InternalError(fmt::format("slot {}: page {} twice in a batch", item.slot, page));
    }
  }
  return absl::OkStatus();
}

absl::Status FakeRunner::CheckSlot(const BatchItem& item, bool decode) {
  const Slot& slot = slots_[static_cast<size_t>(item.slot)];
  if (!decode) RETURN_IF_ERROR(Equal(item, "token_ids", static_cast<int64_t>(item.token_ids.size()), item.num_tokens));
  if (item.first) {
    RETURN_IF_ERROR(Equal(item, "position of the first step", item.position, 0));
    const auto generated =
        static_cast<int64_t>(item.context.size()) - static_cast<int64_t>(item.request->prompt.size());
    return Equal(item, "num_generated of the context", item.num_generated, generated);
  }
  if (slot.request != item.request) return Equal(item, "belongs to another request; this one", item.request->index, -1);
  RETURN_IF_ERROR(Equal(item, "position", item.position, slot.computed));
  RETURN_IF_ERROR(Equal(item, "num_generated", item.num_generated, slot.num_generated));
  if (!decode) return absl::OkStatus();
  RETURN_IF_ERROR(Equal(item, "tokens of a decode", item.num_tokens, 1));
  return Equal(item, "known tokens", static_cast<int64_t>(slot.tokens.size()), item.position + 1);
}

ItemOutput FakeRunner::Run(const BatchItem& item) {
  Slot& slot = slots_[static_cast<size_t>(item.slot)];
  if (item.first) slot = {item.request, {}, 0, item.num_generated};
  slot.tokens.insert(slot.tokens.end(), item.token_ids.begin(), item.token_ids.end());
  const int end = item.position + item.num_tokens;
  const auto page_size = static_cast<size_t>(limits().page_size);
  if (!limits().ragged) {
    for (auto t = static_cast<size_t>(item.position); t < static_cast<size_t>(end); ++t) {
      kv_[static_cast<size_t>(item.pages[t / page_size]) * page_size + t % page_size] = slot.tokens[t];
    }
  }
  slot.computed = end;
  if (!item.last) return {};
  const std::vector<TokenId> context = limits().ragged ? slot.tokens : ReadPages(item, end);
  ItemOutput output;
  if (item.request->kind == Request::Kind::kEmbed) {
    output.embedding = EmbedTokens(*item.request, context, options_.hidden_size);
    return output;
  }
  output.token = options_.next_token(*item.request, context);
  if (item.request->sampling.logprobs >= 0) output.logprob = FakeLogprob(*item.request, output.token);
  slot.tokens.push_back(output.token);
  ++slot.num_generated;
  return output;
}

std::vector<TokenId> FakeRunner::ReadPages(const BatchItem& item, int num_tokens) const {
  const auto page_size = static_cast<size_t>(limits().page_size);
  std::vector<TokenId> tokens;
  for (size_t t = 0; t < static_cast<size_t>(num_tokens); ++t) {
    tokens.push_back(kv_[static_cast<size_t>(item.pages[t / page_size]) * page_size + t % page_size]);
  }
  return tokens;
}

std::vector<TokenId> FakeRunner::ExpectedTokens(const Request& request, const RunnerLimits& limits,
                                                const NextToken& next) {
  std::vector<TokenId> context = request.prompt;
  const std::vector<TokenId>& stops = request.sampling.stop_token_ids;
  const int length = MaxCompletionLength(request, limits);
  for (int i = 1; i <= length; ++i) {
    context.push_back(next(request, context));
    const bool stop = std::find(stops.begin(), stops.end(), context.back()) != stops.end();
    if (stop && i > request.sampling.min_tokens) break;
  }
  return {context.begin() + static_cast<std::ptrdiff_t>(request.prompt.size()), context.end()};
}

std::vector<float> FakeRunner::ExpectedEmbedding(const Request& request, int hidden_size) {
  return EmbedTokens(request, request.prompt, hidden_size);
}

}  // namespace automodeld
