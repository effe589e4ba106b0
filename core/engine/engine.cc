#include "core/engine/engine.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "core/engine/admission.h"
#include "core/status.h"

namespace automodeld {

Engine::Engine(std::string model, std::unique_ptr<Runner> runner, std::shared_ptr<const Tokenizer> tokenizer,
               const EngineOptions& options, ModelMetrics* metrics)
    : model_(std::move(model)),
      limits_(runner->limits()),
      options_(options),
      has_tokenizer_(tokenizer != nullptr),
      metrics_(metrics),
      runner_(std::move(runner)),
      scheduler_(limits_) {
  scheduler_.SetMappedPages(runner_->mapped_pages());
  const auto end_early = [this](std::shared_ptr<Request> request) {
    const std::lock_guard lock(mutex_);
    ended_early_.push_back(std::move(request));
    wake_.notify_one();
  };
  const auto ended = [this](int count) {
    const std::lock_guard lock(mutex_);
    unfinished_ -= count;
    if (unfinished_ > 0) return;
    empty_.notify_all();
    for (const auto& drained : std::exchange(when_drained_, {})) drained();
  };
  delivery_ = std::make_unique<Delivery>(std::move(tokenizer), metrics, Delivery::Callbacks{end_early, ended});
  load_ = CurrentLoad();
  ShowLoad(load_);
  thread_ = std::thread([this] { Run(); });
}

Engine::~Engine() { Shutdown(); }

void Engine::Run() {
  while (TakeInbox()) Step();
}

// One turn of the loop: launch a step, then pass on the tokens of the one before it, which is ready by now.
void Engine::Step() {
  const absl::Time begin = absl::Now();
  waited_ = absl::ZeroDuration();
  scheduler_.SetMappedPages(runner_->mapped_pages());
  const Batch& batch = scheduler_.Next(absl::Now());
  PassOn();
  const bool launched = !batch.empty() && Launch(batch);
  RequestPages();
  // Without a new step there is nothing to overlap with: everything lands, so that the next turn can decide.
  const size_t ahead = launched ? static_cast<size_t>(limits_.look_ahead) : 0;
  while (in_flight_.size() > ahead) Land();
  if (scheduler_.idle()) RequestPages();
  PassOn();
  if (launched) metrics_->step_host_seconds.Observe(absl::ToDoubleSeconds(absl::Now() - begin - waited_));
}

// Asks for memory before pages are short; idle, gives back what it did not need.
void Engine::RequestPages() {
  const int wanted = scheduler_.PagesWanted();
  if (wanted > runner_->mapped_pages() || scheduler_.idle()) runner_->RequestPages(wanted);
  scheduler_.SetMappedPages(runner_->mapped_pages());
}

bool Engine::TakeInbox() {
  bool end_all = false;
  {
    std::unique_lock lock(mutex_);
    const auto something = [this] { return !inbox_.empty() || !ended_early_.empty() || end_all_ || stopping_; };
    if (scheduler_.idle()) wake_.wait(lock, something);
    if (stopping_ && scheduler_.idle() && inbox_.empty()) return false;
    load_.waiting += static_cast<int>(inbox_.size());
    std::swap(taken_, inbox_);
    std::swap(taken_early_, ended_early_);
    end_all = std::exchange(end_all_, false);
  }
  for (std::shared_ptr<Request>& request : taken_) scheduler_.Add(std::move(request));
  for (const auto& request : taken_early_) {
    scheduler_.End(*request, absl::OkStatus(), FinishReason::kStopSequence, absl::Now());
  }
  if (end_all) scheduler_.EndAll(absl::UnavailableError("the model is being unloaded"), absl::Now());
  taken_.clear();
  taken_early_.clear();
  return true;
}

bool Engine::Launch(const Batch& batch) {
  const absl::Time now = absl::Now();
  in_flight_.push_back({runner_->Launch(batch), now});
  return in_flight_.back().step.ok();
}

void Engine::Land() {
  Flight flight = std::move(in_flight_.front());
  in_flight_.pop_front();
  const absl::Time begin = absl::Now();
  absl::StatusOr<StepOutput> output = flight.step.ok() ? (*flight.step)->Wait() : flight.step.status();
  const absl::Time now = absl::Now();
  waited_ += now - begin;
  if (!output.ok()) spdlog::error("model {}: a step failed: {}", model_, std::string(output.status().message()));
  metrics_->step_seconds.Observe(absl::ToDoubleSeconds(now - flight.launched));
  scheduler_.Land(std::move(output), now);
}

void Engine::PassOn() {
  const EngineLoad load = CurrentLoad();
  {
    const std::lock_guard lock(mutex_);
    load_ = load;
  }
  ShowLoad(load);
  delivery_->Post(scheduler_.events());
}

EngineLoad Engine::CurrentLoad() const {
  const PagePool& pages = scheduler_.pages();
  return {scheduler_.num_running(), scheduler_.num_waiting(), pages.used(), pages.total(), pages.mapped()};
}

void Engine::ShowLoad(const EngineLoad& load) {
  metrics_->running.Set(load.running);
  metrics_->waiting.Set(load.waiting);
  metrics_->kv_pages_used.Set(static_cast<double>(load.kv_pages_used));
  metrics_->kv_pages_total.Set(static_cast<double>(load.kv_pages_total));
  metrics_->kv_pages_mapped.Set(static_cast<double>(load.kv_pages_mapped));
  const int64_t preemptions = scheduler_.num_preemptions();
  metrics_->preemptions.Increment(static_cast<double>(preemptions - std::exchange(preemptions_shown_, preemptions)));
}

absl::Status Engine::Submit(std::shared_ptr<Request> request) { return Submit(std::span(&request, 1)); }

absl::Status Engine::Submit(std::span<const std::shared_ptr<Request>> requests) {
  for (const auto& request : requests) {
    RETURN_IF_ERROR(Check(*request));
    if (request->arrival == absl::InfinitePast()) request->arrival = absl::Now();
  }
  const std::lock_guard lock(mutex_);
  if (draining_) return absl::UnavailableError("the model takes no new requests: it is draining");
  const int free_slots = limits_.max_num_seqs - load_.running;
  const int waiting = load_.waiting + static_cast<int>(inbox_.size()) - free_slots;
  if (waiting >= options_.max_queue_size) {
    return absl::ResourceExhaustedError(
        fmt::format("queue is full: {} requests waiting (--max-queue-size {})", waiting, options_.max_queue_size));
  }
  inbox_.insert(inbox_.end(), requests.begin(), requests.end());
  unfinished_ += static_cast<int64_t>(requests.size());
  wake_.notify_one();
  return absl::OkStatus();
}

absl::Status Engine::Check(const Request& request) const {
  if (!has_tokenizer_ && !request.sampling.stop.empty()) {
    return absl::FailedPreconditionError("stop: the model has no tokenizer, so stop strings cannot be found");
  }
  return CheckAdmissible(request, limits_);
}

void Engine::Drain(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  AwaitEnd(lock, deadline);
  if (unfinished_ == 0) return;
  EndAll();
  AwaitEnd(lock, absl::InfiniteFuture());
}

void Engine::StartDrain(bool end_all, std::function<void()> drained) {
  const std::lock_guard lock(mutex_);
  draining_ = true;
  if (unfinished_ == 0) return drained();
  when_drained_.push_back(std::move(drained));
  if (end_all) EndAll();
}

void Engine::EndAll() {
  end_all_ = true;
  wake_.notify_one();
}

void Engine::AwaitEnd(std::unique_lock<std::mutex>& lock, absl::Time deadline) {
  const auto empty = [this] { return unfinished_ == 0; };
  if (deadline == absl::InfiniteFuture()) {
    empty_.wait(lock, empty);
  } else if (deadline > absl::Now()) {
    empty_.wait_until(lock, absl::ToChronoTime(deadline), empty);
  }
}

void Engine::Shutdown() {
  std::call_once(shutdown_, [this] {
    Drain(absl::InfinitePast());
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
    delivery_.reset();
    runner_.reset();
    const std::lock_guard lock(mutex_);
    load_ = {};
    ShowLoad(load_);
  });
}

EngineLoad Engine::Load() const {
  const std::lock_guard lock(mutex_);
  EngineLoad load = load_;
  load.waiting += static_cast<int>(inbox_.size());
  load.draining = draining_;
  return load;
}

}  // namespace automodeld
