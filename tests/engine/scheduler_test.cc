// What becomes of single requests: how they run and how they end.
#include "core/engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "core/engine/fake_runner.h"
#include "tests/engine/requests.h"
#include "tests/engine/scheduler_fixture.h"
#include "tests/engine/stepper.h"

namespace automodeld {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

RunnerLimits LimitsWithLookAhead() {
  RunnerLimits limits = SmallLimits();
  limits.look_ahead = 1;
  return limits;
}

INSTANTIATE_TEST_SUITE_P(LookAhead, SchedulerTest, ::testing::Values(0, 1));

TEST_P(SchedulerTest, CompletionEndsAtMaxTokensWithLength) {
  Stepper stepper(Small(GetParam()));
  const auto request = GenerateRequest("a", 5, 7);
  stepper.Add(request);
  stepper.StepsUntilIdle();
  EXPECT_EQ(stepper.outcome(request).tokens, Expected(*request, stepper.limits()));
  EXPECT_EQ(stepper.outcome(request).tokens.size(), 7U);
  EXPECT_EQ(stepper.outcome(request).reason, FinishReason::kLength);
  EXPECT_EQ(stepper.scheduler().pages().used(), 0);
}

TEST_P(SchedulerTest, CompletionEndsAtTheModelsLength) {
  Stepper stepper(Small(GetParam()));
  const auto request = GenerateRequest("a", 60, 100);
  stepper.Add(request);
  stepper.StepsUntilIdle();
  EXPECT_EQ(stepper.outcome(request).tokens.size(), 4U);
  EXPECT_EQ(stepper.outcome(request).reason, FinishReason::kLength);
}

TEST_P(SchedulerTest, StopTokenEndsTheCompletionAndIsPartOfIt) {
  FakeRunnerOptions options = Small(GetParam());
  options.next_token = ScriptedTokens({5, 6, 7, 8});
  Stepper stepper(options);
  const auto request = GenerateRequest("a", 5, 20);
  request->sampling.stop_token_ids = {99, 7};
  stepper.Add(request);
  stepper.StepsUntilIdle();
  EXPECT_THAT(stepper.outcome(request).tokens, ElementsAre(5, 6, 7));
  EXPECT_EQ(stepper.outcome(request).reason, FinishReason::kStop);
}

TEST_P(SchedulerTest, StopTokenCountsOnlyAfterMinTokens) {
  FakeRunnerOptions options = Small(GetParam());
  options.next_token = ScriptedTokens({7});
  Stepper stepper(options);
  const auto request = GenerateRequest("a", 5, 20);
  request->sampling.stop_token_ids = {7};
  request->sampling.min_tokens = 3;
  stepper.Add(request);
  stepper.StepsUntilIdle();
  EXPECT_THAT(stepper.outcome(request).tokens, ElementsAre(7, 7, 7, 7));
}

TEST_P(SchedulerTest, CancelledRequestFreesItsPagesWithinOneStep) {
  Stepper stepper(Small(GetParam()));
  const auto decoding = GenerateRequest("decoding", 2, 50);
  stepper.Add(decoding);
  while (stepper.outcome(decoding).tokens.size() < 5) stepper.Step();
  const auto prefilling = GenerateRequest("prefilling", 60, 2);
  stepper.Add(prefilling);
  stepper.Step();
  ASSERT_GT(stepper.scheduler().pages().used(), 10);
  decoding->Cancel();
  prefilling->Cancel();
  EXPECT_EQ(stepper.Step().num_tokens(), 0);
  EXPECT_EQ(stepper.scheduler().pages().used(), 0);
  EXPECT_EQ(stepper.outcome(decoding).status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(stepper.outcome(prefilling).status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(stepper.scheduler().idle());
}

TEST_P(SchedulerTest, PagesAreFreeWithinNextItselfNotAfterIt) {
  FakeRunnerOptions options = Small(GetParam());
  options.limits.num_pages = 16;  // 15 pages, which the first prompt takes
  Stepper stepper(options);
  const auto first = GenerateRequest("first", 59, 1);
  const auto second = GenerateRequest("second", 59, 1);
  stepper.Add(first);
  stepper.Add(second);
  stepper.Step();
  first->Cancel();
  EXPECT_THAT(Ids(stepper.Step().prefill), ElementsAre("second"));
}

TEST_P(SchedulerTest, CancelledAndExpiredRequestsLeaveTheQueueInTheNextStep) {
  FakeRunnerOptions options = Small(GetParam());
  options.limits.max_num_seqs = 1;
  Stepper stepper(options);
  stepper.Add(GenerateRequest("running", 2, 50));
  const auto cancelled = GenerateRequest("cancelled", 2, 5);
  const auto expired = GenerateRequest("expired", 2, 5);
  const auto patient = GenerateRequest("patient", 2, 5);
  expired->deadline = stepper.now() + absl::Seconds(1);
  patient->deadline = stepper.now() + absl::Seconds(100);
  for (const auto& request : {cancelled, expired, patient}) stepper.Add(request);
  stepper.Step();
  EXPECT_EQ(stepper.scheduler().num_waiting(), 3);
  cancelled->Cancel();
  stepper.Advance(absl::Seconds(1));
  stepper.Step();
  EXPECT_EQ(stepper.outcome(cancelled).status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(stepper.outcome(expired).status,
            absl::DeadlineExceededError("the deadline passed in the queue, before the first step"));
  EXPECT_EQ(stepper.scheduler().num_waiting(), 1);
  stepper.Advance(absl::Seconds(99));
  stepper.Step();
  EXPECT_EQ(stepper.outcome(patient).status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_P(SchedulerTest, DeadlineEndsDecodeWithTheNumberOfTokens) {
  Stepper stepper(Small(GetParam()));
  const auto request = GenerateRequest("a", 2, 50);
  request->deadline = stepper.now() + absl::Seconds(1);
  stepper.Add(request);
  while (stepper.outcome(request).tokens.size() < 3) stepper.Step();
  stepper.Advance(absl::Seconds(1));
  stepper.Step();
  EXPECT_EQ(stepper.outcome(request).status,
            absl::DeadlineExceededError("the deadline passed after 3 tokens of the completion"));
  EXPECT_EQ(stepper.scheduler().pages().used(), 0);
}

TEST_P(SchedulerTest, FailedStepEndsItsRequestsWithInternalAndNoOthers) {
  FakeRunnerOptions options = Small(GetParam());
  options.limits.max_num_seqs = 2;
  options.fail_wait_at = 3;
  Stepper stepper(options);
  const auto first = GenerateRequest("first", 2, 20);
  const auto second = GenerateRequest("second", 2, 20);
  const auto waiting = GenerateRequest("waiting", 2, 20);
  for (const auto& request : {first, second, waiting}) stepper.Add(request);
  stepper.StepsUntilIdle();
  EXPECT_EQ(stepper.outcome(first).status, absl::InternalError("the step failed: out of luck while running"));
  EXPECT_EQ(stepper.outcome(second).status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(stepper.outcome(first).tokens.size(), 3U);
  EXPECT_EQ(stepper.outcome(waiting).tokens, Expected(*waiting, stepper.limits()));
}

TEST_P(SchedulerTest, StepThatCouldNotBeLaunchedEndsItsRequestsWithInternal) {
  FakeRunnerOptions options = Small(GetParam());
  options.fail_launch_at = 3;
  Stepper stepper(options);
  const auto request = GenerateRequest("a", 2, 20);
  stepper.Add(request);
  stepper.StepsUntilIdle();
  EXPECT_EQ(stepper.outcome(request).status, absl::InternalError("the step failed: out of luck at launch"));
  EXPECT_EQ(stepper.outcome(request).tokens.size(), 3U);
  const auto next = GenerateRequest("next", 2, 20);
  stepper.Add(next);
  stepper.StepsUntilIdle();
  EXPECT_EQ(stepper.outcome(next).tokens, Expected(*next, stepper.limits()));
}

TEST_P(SchedulerTest, EndFromOutsideStopsTheSequenceAndDropsWhatIsInFlight) {
  Stepper stepper(Small(GetParam()));
  const auto request = GenerateRequest("a", 2, 50);
  stepper.Add(request);
  while (stepper.outcome(request).tokens.size() < 4) stepper.Step();
  stepper.scheduler().End(*request, absl::OkStatus(), FinishReason::kStopSequence, stepper.now());
  EXPECT_EQ(stepper.scheduler().pages().used(), 0);
  stepper.Step();
  EXPECT_TRUE(stepper.scheduler().idle());
  EXPECT_EQ(stepper.outcome(request).tokens.size(), 4U);
  EXPECT_EQ(stepper.outcome(request).reason, FinishReason::kStopSequence);
  stepper.scheduler().End(*request, absl::OkStatus(), FinishReason::kStopSequence, stepper.now());
  EXPECT_THAT(stepper.scheduler().events(), IsEmpty());
}

TEST_P(SchedulerTest, EndAllLeavesNothing) {
  Stepper stepper(Small(GetParam()));
  const auto requests = GenerateRequests(10, 5, 20);
  for (const auto& request : requests) stepper.Add(request);
  for (int i = 0; i < 5; ++i) stepper.Step();
  stepper.scheduler().EndAll(absl::UnavailableError("over"), stepper.now());
  EXPECT_EQ(stepper.scheduler().pages().used(), 0);
  stepper.Step();
  EXPECT_TRUE(stepper.scheduler().idle());
  for (const auto& request : requests) {
    EXPECT_EQ(stepper.outcome(request).num_ends, 1);
    EXPECT_EQ(stepper.outcome(request).status, absl::UnavailableError("over"));
  }
}

TEST(Scheduler, LookAheadLaunchesTheNextStepBeforeTheTokensAreKnown) {
  Stepper stepper(FakeRunnerOptions{.limits = LimitsWithLookAhead()});
  const auto request = GenerateRequest("a", 2, 20);
  stepper.Add(request);
  stepper.Step();
  EXPECT_EQ(stepper.Step().decode.at(0).position, 2);
  EXPECT_EQ(stepper.outcome(request).tokens.size(), 1U);
  EXPECT_EQ(stepper.scheduler().num_in_flight(), 1);
}

TEST(Scheduler, LookAheadNeverRunsPastMaxTokens) {
  Stepper stepper(FakeRunnerOptions{.limits = LimitsWithLookAhead()});
  const auto request = GenerateRequest("a", 2, 3);
  stepper.Add(request);
  int num_launched = 0;
  while (!stepper.scheduler().idle()) num_launched += stepper.Step().num_tokens() > 0 ? 1 : 0;
  EXPECT_EQ(num_launched, 3);
}

TEST(Scheduler, ResultsThatDoNotMatchTheBatchEndItWithInternal) {
  Scheduler scheduler(SmallLimits());
  scheduler.Add(GenerateRequest("a", 2, 3));
  ASSERT_FALSE(scheduler.Next(absl::UnixEpoch()).empty());
  scheduler.Land(StepOutput{}, absl::UnixEpoch());
  ASSERT_EQ(scheduler.events().size(), 1U);
  EXPECT_EQ(scheduler.events()[0].status, absl::InternalError("the step failed: 0 results for 1 items"));
}

TEST(Scheduler, StepWithoutATokenForAGeneratingRequestEndsItWithInternal) {
  Scheduler scheduler(SmallLimits());
  scheduler.Add(GenerateRequest("a", 2, 3));
  ASSERT_FALSE(scheduler.Next(absl::UnixEpoch()).empty());
  StepOutput output;
  output.items.emplace_back();
  scheduler.Land(std::move(output), absl::UnixEpoch());
  ASSERT_EQ(scheduler.events().size(), 1U);
  EXPECT_EQ(scheduler.events()[0].status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(scheduler.pages().used(), 0);
}

}  // namespace
}  // namespace automodeld
