#include "core/engine/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

#include "core/engine/admission.h"

namespace automodeld {
namespace {

// How much of the budget is prefill's own while it has work.
constexpr int kPrefillShare = 8;

// Pages that should be ready for each running sequence: one may be needed in the next step, and memory takes a few
// steps.
constexpr int kPagesAhead = 2;

template <typename List>
void InsertInOrder(List& list, Sequence* sequence) {
  list.insert(std::upper_bound(list.begin(), list.end(), sequence, ServedBefore), sequence);
  sequence->listed = true;
}

absl::Status WhyDropped(const Sequence& sequence) {
  if (sequence.request->cancelled.load(std::memory_order_relaxed))
    return absl::CancelledError("the call was cancelled");
  if (sequence.first_step == absl::InfiniteFuture()) {
    return absl::DeadlineExceededError("the deadline passed in the queue, before the first step");
  }
  return absl::DeadlineExceededError(
      fmt::format("the deadline passed after {} tokens of the completion", sequence.num_completed()));
}

bool HasResult(const StepOutput& output, size_t num_items) { return output.items.size() == num_items; }

}  // namespace

Scheduler::Scheduler(const RunnerLimits& limits) : limits_(limits), pages_(limits.ragged ? 0 : limits.num_pages) {
  for (int slot = limits.max_num_seqs - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

void Scheduler::Add(std::shared_ptr<Request> request) {
  if (idle()) most_pages_wanted_ = 0;
  Sequence& sequence = NewSequence();
  sequence.request = std::move(request);
  sequence.order = num_arrived_++;
  sequence.tokens = sequence.request->prompt;
  if (sequence.request->kind == Request::Kind::kGenerate) {
    sequence.max_sampled = MaxCompletionLength(*sequence.request, limits_);
  }
  by_request_[sequence.request.get()] = &sequence;
  earliest_deadline_ = std::min(earliest_deadline_, sequence.request->deadline);
  InsertInOrder(waiting_, &sequence);
}

const Batch& Scheduler::Next(absl::Time now) {
  batch_.decode.clear();
  batch_.prefill.clear();
  batch_.ragged.clear();
  ++num_steps_;
  EndCancelledAndExpired(now);
  GrowPages();
  const int used = SchedulePrefill(PrefillBudget(), now);
  ScheduleDecode(limits_.max_num_batched_tokens - used);
  if (!batch_.empty()) RememberStep();
  if (!limits_.ragged) CountPagesWanted();
  return batch_;
}

void Scheduler::CountPagesWanted() {
  const int left = limits_.num_pages - 1 - pages_.used();
  int ahead = std::min(left, kPagesAhead * num_running());
  const size_t could_start = std::min(waiting_.size(), free_slots_.size());
  for (size_t i = 0; i < could_start && ahead < left; ++i) {
    ahead += PagesFor(static_cast<int>(waiting_[i]->tokens.size())) + kPagesAhead;
  }
  pages_wanted_ = 1 + pages_.used() + std::min(ahead, left);
  most_pages_wanted_ = std::max(most_pages_wanted_, pages_wanted_);
}

int Scheduler::PagesWanted() const {
  if (limits_.ragged) return 0;
  return std::max(limits_.least_pages(), idle() ? most_pages_wanted_ : std::max(pages_wanted_, pages_.mapped() + 1));
}

void Scheduler::EndCancelledAndExpired(absl::Time now) {
  const auto dropped = [now](const Sequence& sequence) {
    return sequence.request->cancelled.load(std::memory_order_relaxed) || sequence.request->deadline <= now;
  };
  for (Sequence* sequence : running_) {
    if (dropped(*sequence)) Finish(*sequence, WhyDropped(*sequence), FinishReason::kNone, now, {});
  }
  // The queue may be long: its deadlines are looked at only when the earliest has passed.
  const bool expired = earliest_deadline_ <= now;
  if (expired) earliest_deadline_ = absl::InfiniteFuture();
  for (Sequence* sequence : waiting_) {
    if (sequence->request->cancelled.load(std::memory_order_relaxed) || (expired && dropped(*sequence))) {
      Finish(*sequence, WhyDropped(*sequence), FinishReason::kNone, now, {});
    } else if (expired) {
      earliest_deadline_ = std::min(earliest_deadline_, sequence->request->deadline);
    }
  }
  RemoveEnded();
}

void Scheduler::GrowPages() {
  decodable_.clear();
  // By index and best first: preemption takes from the end.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.decodable() && GrowPages(sequence)) decodable_.push_back(&sequence);
  }
}

bool Scheduler::GrowPages(Sequence& sequence) {
  const auto needed = static_cast<size_t>(PagesFor(sequence.computed + 1));
  while (sequence.pages.size() < needed) {
    if (const PageId page = pages_.Allocate(); page != PagePool::kNoPage) {
      sequence.pages.push_back(page);
      continue;
    }
    Sequence& victim = *running_.back();
    Preempt(victim);
    if (&victim == &sequence) return false;
  }
  return true;
}

void Scheduler::Preempt(Sequence& sequence) {
  assert(running_.back() == &sequence);
  running_.pop_back();
  ReleasePages(sequence);
  free_slots_.push_back(std::exchange(sequence.slot, Sequence::kNoSlot));
  earliest_deadline_ = std::min(earliest_deadline_, sequence.request->deadline);
  InsertInOrder(waiting_, &sequence);
  ++num_preemptions_;
}

int Scheduler::PrefillBudget() const {
  const int budget = limits_.max_num_batched_tokens;
  const int left = budget - static_cast<int>(decodable_.size());
  // A budget of one token cannot be shared: the two sides take turns.
  const int share = budget == 1 ? static_cast<int>(num_steps_ % 2) : std::max(1, budget / kPrefillShare);
  return std::max(left, share);
}

int Scheduler::SchedulePrefill(int budget, absl::Time now) {
  prefilled_.clear();
  ragged_.clear();
  int left = budget;
  for (size_t i = 0; i < running_.size() && left > 0; ++i) {
    Sequence& sequence = *running_[i];
    if (!sequence.prefilling()) continue;
    const int chunk = std::min(left, sequence.prefill_length - sequence.computed);
    AddChunk(sequence, chunk);
    left -= chunk;
  }
  while (left > 0 && Admit(left, now)) {
    Sequence& sequence = *(limits_.ragged ? ragged_ : prefilled_).back();
    left -= sequence.computed;
  }
  return budget - left;
}

bool Scheduler::Admit(int budget, absl::Time now) {
  if (waiting_.empty() || free_slots_.empty()) return false;
  Sequence& sequence = *waiting_.front();
  if (sequence.in_flight > 0) return false;  // preempted: some of its tokens have not landed
  const auto length = static_cast<int>(sequence.tokens.size());
  if (limits_.ragged && length > budget) return false;
  const int spare = static_cast<int>(decodable_.size());
  if (!limits_.ragged && !running_.empty() && pages_.num_free() < PagesFor(length) + spare) return false;
  waiting_.pop_front();
  TakeSlot(sequence, now);
  AddChunk(sequence, std::min(budget, length));
  return true;
}

void Scheduler::TakeSlot(Sequence& sequence, absl::Time now) {
  sequence.slot = free_slots_.back();
  free_slots_.pop_back();
  sequence.prefill_length = static_cast<int>(sequence.tokens.size());
  sequence.computed = 0;
  sequence.first_step = std::min(sequence.first_step, now);
  const int num_pages = limits_.ragged ? 0 : PagesFor(sequence.prefill_length);
  for (int i = 0; i < num_pages; ++i) {
    sequence.pages.push_back(pages_.Allocate());
    assert(sequence.pages.back() != PagePool::kNoPage);
  }
  InsertInOrder(running_, &sequence);
}

void Scheduler::AddChunk(Sequence& sequence, int num_tokens) {
  BatchItem item;
  item.request = sequence.request.get();
  item.slot = sequence.slot;
  item.first = sequence.computed == 0;
  item.position = sequence.computed;
  item.num_tokens = num_tokens;
  item.last = sequence.computed + num_tokens == sequence.prefill_length;
  item.num_generated = sequence.sampled;
  item.token_ids =
      std::span(sequence.tokens).subspan(static_cast<size_t>(sequence.computed), static_cast<size_t>(num_tokens));
  if (item.first) item.context = sequence.tokens;
  item.pages = sequence.pages;
  sequence.computed += num_tokens;
  if (item.last && sequence.max_sampled > 0) ++sequence.sampled;
  (limits_.ragged ? batch_.ragged : batch_.prefill).push_back(item);
  (limits_.ragged ? ragged_ : prefilled_).push_back(&sequence);
}

void Scheduler::ScheduleDecode(int budget) {
  const auto room = static_cast<size_t>(std::max(0, budget));
  if (decodable_.size() > room) {
    std::nth_element(decodable_.begin(), decodable_.begin() + static_cast<std::ptrdiff_t>(room), decodable_.end(),
                     [](const Sequence* a, const Sequence* b) { return a->last_decode < b->last_decode; });
    decodable_.resize(room);
  }
  for (Sequence* sequence : decodable_) AddDecode(*sequence);
}

void Scheduler::AddDecode(Sequence& sequence) {
  BatchItem item;
  item.request = sequence.request.get();
  item.slot = sequence.slot;
  item.position = sequence.computed;
  item.num_tokens = 1;
  item.last = true;
  item.num_generated = sequence.sampled;
  item.pages = sequence.pages;
  ++sequence.computed;
  ++sequence.sampled;
  sequence.last_decode = num_steps_;
  batch_.decode.push_back(item);
}

void Scheduler::RememberStep() {
  Step step;
  if (!spare_steps_.empty()) {
    step = std::move(spare_steps_.back());
    spare_steps_.pop_back();
  }
  for (size_t i = 0; i < batch_.decode.size(); ++i) step.push_back({decodable_[i], true});
  for (size_t i = 0; i < batch_.prefill.size(); ++i) step.push_back({prefilled_[i], batch_.prefill[i].last});
  for (size_t i = 0; i < batch_.ragged.size(); ++i) step.push_back({ragged_[i], true});
  for (const StepItem& item : step) ++item.sequence->in_flight;
  steps_.push_back(std::move(step));
}

void Scheduler::Land(absl::StatusOr<StepOutput> output, absl::Time now) {
  assert(!steps_.empty());
  Step step = std::move(steps_.front());
  steps_.erase(steps_.begin());
  if (output.ok() && !HasResult(*output, step.size())) {
    output = absl::InternalError(fmt::format("{} results for {} items", output->items.size(), step.size()));
  }
  for (size_t i = 0; i < step.size(); ++i) {
    Sequence& sequence = *step[i].sequence;
    --sequence.in_flight;
    if (sequence.ended) {
      if (!sequence.listed && sequence.in_flight == 0) Recycle(sequence);
    } else if (!output.ok()) {
      const std::string message = fmt::format("the step failed: {}", std::string(output.status().message()));
      Finish(sequence, absl::InternalError(message), FinishReason::kNone, now, {});
    } else if (step[i].last) {
      LandItem(sequence, std::move(output->items[i]), now);
    }
  }
  step.clear();
  spare_steps_.push_back(std::move(step));
  RemoveEnded();
}

void Scheduler::LandItem(Sequence& sequence, ItemOutput output, absl::Time now) {
  if (sequence.request->kind == Request::Kind::kEmbed) {
    Finish(sequence, absl::OkStatus(), FinishReason::kNone, now, std::move(output));
    return;
  }
  if (output.token < 0) {
    Finish(sequence, absl::InternalError("the step gave no token"), FinishReason::kNone, now, {});
    return;
  }
  sequence.tokens.push_back(output.token);
  if (const FinishReason reason = EndByToken(sequence); reason != FinishReason::kNone) {
    Finish(sequence, absl::OkStatus(), reason, now, std::move(output));
    return;
  }
  events_.push_back({.request = sequence.request,
                     .time = now,
                     .first_step = sequence.first_step,
                     .output = std::move(output),
                     .status = absl::OkStatus()});
}

FinishReason Scheduler::EndByToken(const Sequence& sequence) const {
  const SamplingParams& sampling = sequence.request->sampling;
  const int num_completed = sequence.num_completed();
  const std::vector<TokenId>& stops = sampling.stop_token_ids;
  // The runner masks stop tokens until there are min_tokens others, so the earliest to count is the one after them.
  if (num_completed > sampling.min_tokens &&
      std::find(stops.begin(), stops.end(), sequence.tokens.back()) != stops.end()) {
    return FinishReason::kStop;
  }
  return num_completed >= sequence.max_sampled ? FinishReason::kLength : FinishReason::kNone;
}

void Scheduler::End(const Request& request, const absl::Status& status, FinishReason reason, absl::Time now) {
  const auto found = by_request_.find(&request);
  if (found == by_request_.end()) return;
  Finish(*found->second, status, reason, now, {});
  RemoveEnded();
}

void Scheduler::EndAll(const absl::Status& status, absl::Time now) {
  for (Sequence* sequence : running_) Finish(*sequence, status, FinishReason::kNone, now, {});
  for (Sequence* sequence : waiting_) Finish(*sequence, status, FinishReason::kNone, now, {});
  RemoveEnded();
}

void Scheduler::Finish(Sequence& sequence, const absl::Status& status, FinishReason reason, absl::Time now,
                       ItemOutput output) {
  assert(!sequence.ended);
  sequence.ended = true;
  some_ended_ = true;
  ReleasePages(sequence);
  if (sequence.slot != Sequence::kNoSlot) free_slots_.push_back(std::exchange(sequence.slot, Sequence::kNoSlot));
  by_request_.erase(sequence.request.get());
  events_.push_back({.request = sequence.request,
                     .time = now,
                     .first_step = sequence.first_step,
                     .output = std::move(output),
                     .ended = true,
                     .status = status,
                     .reason = reason});
}

void Scheduler::RemoveEnded() {
  if (!std::exchange(some_ended_, false)) return;
  const auto remove = [this](Sequence* sequence) {
    if (!sequence->ended) return false;
    sequence->listed = false;
    if (sequence->in_flight == 0) Recycle(*sequence);
    return true;
  };
  std::erase_if(running_, remove);
  std::erase_if(waiting_, remove);
}

void Scheduler::Recycle(Sequence& sequence) {
  sequence = Sequence{};
  spare_sequences_.push_back(&sequence);
}

Sequence& Scheduler::NewSequence() {
  if (spare_sequences_.empty()) {
    sequences_.push_back(std::make_unique<Sequence>());
    return *sequences_.back();
  }
  Sequence& sequence = *spare_sequences_.back();
  spare_sequences_.pop_back();
  return sequence;
}

void Scheduler::ReleasePages(Sequence& sequence) {
  for (const PageId page : sequence.pages) pages_.Release(page);
  sequence.pages.clear();
}

int64_t Scheduler::pages_referenced() const {
  int64_t referenced = 0;
  for (const Sequence* sequence : running_) referenced += static_cast<int64_t>(sequence->pages.size());
  return referenced;
}

}  // namespace automodeld
