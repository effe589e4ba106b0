// A scheduler and a fake runner, one step at a time and on one thread, as the engine would drive them.
#ifndef TESTS_ENGINE_STEPPER_H_
#define TESTS_ENGINE_STEPPER_H_

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "core/engine/admission.h"
#include "core/engine/fake_runner.h"
#include "core/engine/scheduler.h"

namespace automodeld {

// What the events told of one request.
struct Outcome {
  std::vector<TokenId> tokens;
  std::vector<float> embedding;
  int num_ends = 0;
  absl::Status status;
  FinishReason reason = FinishReason::kNone;
};

class Stepper {
 public:
  explicit Stepper(FakeRunnerOptions options)
      : look_ahead_(static_cast<size_t>(options.limits.look_ahead)),
        runner_(std::move(options)),
        scheduler_(runner_.limits()) {}

  void Add(const std::shared_ptr<Request>& request) {
    ASSERT_TRUE(CheckAdmissible(*request, runner_.limits()).ok());
    scheduler_.Add(request);
  }

  // One turn of the loop. Returns what was launched; every invariant that holds between steps is checked.
  FakeBatch Step() {
    scheduler_.SetMappedPages(runner_.mapped_pages());
    const Batch& batch = scheduler_.Next(now_);
    TakeEvents();
    bool launched = false;
    if (!batch.empty()) {
      in_flight_.push_back(runner_.Launch(batch));
      launched = in_flight_.back().ok();
    }
    RequestPages();
    while (in_flight_.size() > (launched ? look_ahead_ : 0)) Land();
    if (scheduler_.idle()) RequestPages();
    EXPECT_TRUE(runner_.steps()->violations().empty()) << runner_.steps()->violations().back();
    EXPECT_EQ(scheduler_.pages().used(), scheduler_.pages_referenced());
    std::vector<FakeBatch> launched_batches = runner_.steps()->batches();
    runner_.steps()->Forget();
    return launched_batches.empty() ? FakeBatch{} : std::move(launched_batches.back());
  }

  int StepsUntilIdle() {
    int steps = 0;
    for (; !scheduler_.idle() && steps < 100000; ++steps) Step();
    return steps;
  }

  const Outcome& outcome(const Request& request) { return outcomes_[&request]; }
  const Outcome& outcome(const std::shared_ptr<Request>& request) { return outcome(*request); }
  Scheduler& scheduler() { return scheduler_; }
  FakeRunner& runner() { return runner_; }
  const RunnerLimits& limits() const { return runner_.limits(); }
  absl::Time now() const { return now_; }
  void Advance(absl::Duration duration) { now_ += duration; }

 private:
  void RequestPages() {
    const int wanted = scheduler_.PagesWanted();
    if (wanted > runner_.mapped_pages() || scheduler_.idle()) runner_.RequestPages(wanted);
  }

  void Land() {
    auto step = std::move(in_flight_.front());
    in_flight_.pop_front();
    scheduler_.Land(step.ok() ? (*step)->Wait() : step.status(), now_);
    TakeEvents();
  }

  void TakeEvents() {
    for (Event& event : scheduler_.events()) {
      Outcome& outcome = outcomes_[event.request.get()];
      EXPECT_EQ(outcome.num_ends, 0) << "an event after the end";
      if (event.output.token >= 0) outcome.tokens.push_back(event.output.token);
      if (!event.output.embedding.empty()) outcome.embedding = event.output.embedding;
      if (!event.ended) continue;
      ++outcome.num_ends;
      outcome.status = event.status;
      outcome.reason = event.reason;
    }
    scheduler_.events().clear();
  }

  const size_t look_ahead_;
  FakeRunner runner_;
  Scheduler scheduler_;
  std::deque<absl::StatusOr<std::unique_ptr<LaunchedStep>>> in_flight_;
  std::map<const Request*, Outcome> outcomes_;
  absl::Time now_ = absl::UnixEpoch();
};

}  // namespace automodeld

#endif  // TESTS_ENGINE_STEPPER_H_
