// How requests end before their time: cancel, deadline, drain, failure, and sinks that misbehave.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/engine/engine.h"
#include "core/engine/fake_runner.h"
#include "tests/engine/collecting_sink.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/requests.h"

namespace automodeld {
namespace {

using ::testing::IsEmpty;

class EngineEnds : public EngineTest {};
INSTANTIATE_TEST_SUITE_P(LookAhead, EngineEnds, ::testing::Values(0, 1));

TEST_P(EngineEnds, CancelEndsAWaitingRequestWhileTheOthersGoOn) {
  options_.limits.max_num_seqs = 1;
  StartHeld();
  const auto running = Generate("running", 2, 20);
  const auto waiting = Generate("waiting", 2, 20);
  ASSERT_EQ(engine_->Submit(running), absl::OkStatus());
  steps_->AwaitLaunched(1);
  ASSERT_EQ(engine_->Submit(waiting), absl::OkStatus());
  waiting->Cancel();
  steps_->Release();
  EXPECT_EQ(sink(waiting).AwaitFinish().status.code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(sink(waiting).answer().token_ids, IsEmpty());
  EXPECT_EQ(sink(running).AwaitFinish().token_ids, Expected(*running));
}

TEST_P(EngineEnds, CancelEndsPrefillWithinOneStepAndFreesItsPages) {
  StartHeld();
  const auto request = Generate("a", 60, 2);
  ASSERT_EQ(engine_->Submit(request), absl::OkStatus());
  const int in_flight = 1 + GetParam();
  steps_->AwaitLaunched(in_flight);
  EXPECT_EQ(engine_->Load().kv_pages_used, 15);
  request->Cancel();
  steps_->Release();
  EXPECT_EQ(sink(request).AwaitFinish().status.code(), absl::StatusCode::kCancelled);
  ExpectNothingLeft();
  EXPECT_EQ(steps_->num_launched(), in_flight);
}

TEST_P(EngineEnds, CancelEndsDecodeWithinOneStepAndFreesItsPages) {
  StartHeld();
  const auto request = Generate("a", 2, 50);
  ASSERT_EQ(engine_->Submit(request), absl::OkStatus());
  steps_->ReleaseSteps(3);
  sink(request).AwaitTokens(3);
  steps_->AwaitLaunched(4 + GetParam());
  request->Cancel();
  steps_->Release();
  const Answer answer = sink(request).AwaitFinish();
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kCancelled);
  ExpectNothingLeft();
  EXPECT_EQ(steps_->num_launched(), 4 + GetParam());
}

TEST_P(EngineEnds, DeadlineThatHasPassedEndsTheRequestBeforeItRuns) {
  Start();
  const auto request = Generate("a", 2, 50);
  request->deadline = absl::Now() - absl::Seconds(1);
  ASSERT_EQ(engine_->Submit(request), absl::OkStatus());
  EXPECT_EQ(sink(request).AwaitFinish().status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(steps_->num_launched(), 0);
}

TEST_P(EngineEnds, DeadlineEndsARequestThatRuns) {
  StartHeld();
  const auto request = Generate("a", 2, 50);
  request->deadline = absl::Now() + absl::Milliseconds(50);
  ASSERT_EQ(engine_->Submit(request), absl::OkStatus());
  while (absl::Now() < request->deadline) std::this_thread::yield();
  steps_->Release();
  EXPECT_EQ(sink(request).AwaitFinish().status.code(), absl::StatusCode::kDeadlineExceeded);
  ExpectNothingLeft();
  EXPECT_LE(steps_->num_launched(), 1 + GetParam());
}

TEST_P(EngineEnds, FailedStepEndsItsRequestsAndTheEngineServesOn) {
  options_.fail_wait_at = 2;
  Start();
  const auto request = Generate("a", 2, 20);
  ASSERT_EQ(engine_->Submit(request), absl::OkStatus());
  const Answer answer = sink(request).AwaitFinish();
  EXPECT_EQ(answer.status, absl::InternalError("the step failed: out of luck while running"));
  EXPECT_EQ(answer.token_ids.size(), 2U);
  const auto next = Generate("b", 2, 20);
  ASSERT_EQ(engine_->Submit(next), absl::OkStatus());
  EXPECT_EQ(sink(next).AwaitFinish().token_ids, Expected(*next));
}

TEST_P(EngineEnds, StepThatIsNotLaunchedEndsItsRequestsAndTheEngineServesOn) {
  options_.fail_launch_at = 2;
  Start();
  const auto request = Generate("a", 2, 20);
  ASSERT_EQ(engine_->Submit(request), absl::OkStatus());
  EXPECT_EQ(sink(request).AwaitFinish().status, absl::InternalError("the step failed: out of luck at launch"));
  const auto next = Generate("b", 2, 20);
  ASSERT_EQ(engine_->Submit(next), absl::OkStatus());
  EXPECT_EQ(sink(next).AwaitFinish().token_ids, Expected(*next));
}

TEST_P(EngineEnds, SlowSinkHoldsUpNoStep) {
  Start();
  std::promise<void> let_go;
  const std::shared_future<void> gone = let_go.get_future().share();
  const auto slow = Generate("slow", 2, 20);
  sink(slow).on_tokens = [gone](int) { gone.wait(); };
  ASSERT_EQ(engine_->Submit(slow), absl::OkStatus());
  steps_->AwaitLaunched(20);  // all of them, while the first token is still being passed on
  let_go.set_value();
  EXPECT_EQ(sink(slow).AwaitFinish().token_ids, Expected(*slow));
}

TEST_P(EngineEnds, SinkThatThrowsEndsOnlyItsOwnRequest) {
  Start();
  const auto bad = Generate("bad", 2, 20);
  const auto good = Generate("good", 2, 20);
  sink(bad).on_tokens = [](int) { throw std::runtime_error("no"); };
  ASSERT_EQ(engine_->Submit(bad), absl::OkStatus());
  ASSERT_EQ(engine_->Submit(good), absl::OkStatus());
  EXPECT_EQ(sink(bad).AwaitFinish().status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(sink(good).AwaitFinish().token_ids, Expected(*good));
  ExpectNothingLeft();
  EXPECT_EQ(sink(bad).answer().num_finishes, 1);
}

TEST_P(EngineEnds, DrainLetsTheAcceptedFinishAndRefusesNewOnes) {
  StartHeld();
  const auto request = Generate("a", 2, 20);
  ASSERT_EQ(engine_->Submit(request), absl::OkStatus());
  steps_->AwaitLaunched(1);
  std::future<void> drained = std::async(std::launch::async, [&] { engine_->Drain(absl::InfiniteFuture()); });
  AwaitDraining();
  EXPECT_EQ(engine_->Submit(Generate("late", 2, 20)),
            absl::UnavailableError("the model takes no new requests: it is draining"));
  steps_->Release();
  drained.get();
  EXPECT_EQ(sink(request).answer().token_ids, Expected(*request));
  EXPECT_EQ(engine_->Load().kv_pages_used, 0);
}

TEST_P(EngineEnds, DrainEndsWhatIsLeftAtItsDeadline) {
  options_.limits.max_num_seqs = 1;
  StartHeld();
  const auto running = Generate("running", 2, 20);
  const auto waiting = Generate("waiting", 2, 20);
  ASSERT_EQ(engine_->Submit(running), absl::OkStatus());
  ASSERT_EQ(engine_->Submit(waiting), absl::OkStatus());
  steps_->ReleaseSteps(2);
  sink(running).AwaitTokens(2);
  std::future<void> drained =
      std::async(std::launch::async, [&] { engine_->Drain(absl::Now() + absl::Milliseconds(20)); });
  // The step in flight has to land before the engine hears of the end; one at a time, so that the run does not finish.
  while (drained.wait_for(std::chrono::milliseconds(30)) != std::future_status::ready) steps_->ReleaseSteps(1);
  EXPECT_EQ(sink(running).answer().status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(sink(waiting).answer().status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(engine_->Load().kv_pages_used, 0);
}

TEST_P(EngineEnds, DestructionEndsWhatIsLeftWithUnavailable) {
  StartHeld();
  const auto requests = Generates(20, 2, 60);
  for (const auto& request : requests) ASSERT_EQ(engine_->Submit(request), absl::OkStatus());
  steps_->AwaitLaunched(1);
  std::future<void> destroyed = std::async(std::launch::async, [this] { engine_->Shutdown(); });
  AwaitDraining();
  steps_->ReleaseSteps(1 + GetParam());
  destroyed.get();
  for (const auto& request : requests) {
    EXPECT_EQ(sink(request).answer().num_finishes, 1);
    EXPECT_EQ(sink(request).answer().status.code(), absl::StatusCode::kUnavailable);
  }
  EXPECT_EQ(engine_->Submit(Generate("late", 2, 1)).code(), absl::StatusCode::kUnavailable);
}

TEST_P(EngineEnds, ManyThreadsSubmitAndCancelAtOnce) {
  options_.limits.num_pages = 30;
  engine_options_.max_queue_size = 10000;
  Start();
  std::vector<std::future<void>> threads(4);
  for (int t = 0; t < 4; ++t) {
    threads[static_cast<size_t>(t)] = std::async(std::launch::async, [this, t] {
      std::vector<std::shared_ptr<Request>> requests;
      for (int i = 0; i < 50; ++i) {
        requests.push_back(Generate(std::to_string(t * 1000 + i), 1 + (i * 7) % 40, 1 + i % 20));
        ASSERT_EQ(engine_->Submit(requests.back()), absl::OkStatus());
        if (i % 5 == 4) requests[static_cast<size_t>(i - 3)]->Cancel();
      }
      for (const auto& request : requests) {
        const Answer answer = sink(request).AwaitFinish();
        if (answer.status.ok()) {
          EXPECT_EQ(answer.token_ids, Expected(*request));
        } else {
          EXPECT_EQ(answer.status.code(), absl::StatusCode::kCancelled);
        }
      }
    });
  }
  for (std::future<void>& thread : threads) thread.get();
  ExpectNothingLeft();
}

}  // namespace
}  // namespace automodeld
