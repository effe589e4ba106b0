// How the scheduler shares budget, slots and pages between requests.
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

class SchedulerSharing : public SchedulerTest {};
INSTANTIATE_TEST_SUITE_P(LookAhead, SchedulerSharing, ::testing::Values(0, 1));

TEST_P(SchedulerSharing, LongPromptIsPrefilledInChunksWithTheSameResult) {
  Stepper stepper(Small(GetParam()));
  const auto request = GenerateRequest("a", 40, 5);
  stepper.Add(request);
  const FakeBatch first = stepper.Step();
  ASSERT_EQ(first.prefill.size(), 1U);
  EXPECT_EQ(first.prefill[0].num_tokens, 16);
  EXPECT_FALSE(first.prefill[0].last);
  EXPECT_EQ(stepper.Step().prefill.at(0).position, 16);
  EXPECT_TRUE(stepper.Step().prefill.at(0).last);
  stepper.StepsUntilIdle();
  EXPECT_EQ(stepper.outcome(request).tokens, Expected(*request, stepper.limits()));
}

TEST_P(SchedulerSharing, DecodeGoesOnWhileALongPromptIsPrefilled) {
  Stepper stepper(Small(GetParam()));
  const auto decoding = GenerateRequest("decoding", 2, 30);
  stepper.Add(decoding);
  while (stepper.Step().decode.empty()) continue;
  stepper.Add(GenerateRequest("long", 60, 1));
  for (int i = 0; i < 4; ++i) {
    const FakeBatch batch = stepper.Step();
    EXPECT_THAT(Ids(batch.decode), ElementsAre("decoding"));
    EXPECT_THAT(Ids(batch.prefill), ElementsAre("long"));
    EXPECT_EQ(batch.num_tokens(), 16);
  }
}

TEST_P(SchedulerSharing, PrefillGoesOnWhileDecodeWouldFillTheBudget) {
  FakeRunnerOptions options = Small(GetParam());
  options.limits.max_num_batched_tokens = 3;
  Stepper stepper(options);
  const auto decoding = GenerateRequests(3, 1, 60);
  for (const auto& request : decoding) stepper.Add(request);
  for (int i = 0; i < 6; ++i) stepper.Step();
  const auto late = GenerateRequest("late", 6, 1);
  stepper.Add(late);
  for (int i = 0; i < 8; ++i) EXPECT_LE(stepper.Step().num_tokens(), 3);
  EXPECT_EQ(stepper.outcome(late).num_ends, 1);
  for (const auto& request : decoding) EXPECT_GT(stepper.outcome(request).tokens.size(), 5U);
}

TEST_P(SchedulerSharing, BudgetOfOneTokenServesDecodeAndPrefillInTurn) {
  FakeRunnerOptions options = Small(GetParam());
  options.limits.max_num_batched_tokens = 1;
  Stepper stepper(options);
  const auto decoding = GenerateRequest("decoding", 1, 60);
  const auto late = GenerateRequest("late", 5, 1);
  stepper.Add(decoding);
  for (int i = 0; i < 4; ++i) stepper.Step();
  const size_t before = stepper.outcome(decoding).tokens.size();
  stepper.Add(late);
  for (int i = 0; i < 14; ++i) stepper.Step();
  EXPECT_EQ(stepper.outcome(late).num_ends, 1);
  EXPECT_GE(stepper.outcome(decoding).tokens.size(), before + 5);
}

TEST_P(SchedulerSharing, WhereNotAllCanDecodeAllTakeTurns) {
  FakeRunnerOptions options = Small(GetParam());
  options.limits.max_num_seqs = 5;
  options.limits.max_num_batched_tokens = 2;
  Stepper stepper(options);
  const auto requests = GenerateRequests(5, 1, 50);
  for (const auto& request : requests) stepper.Add(request);
  for (int i = 0; i < 40; ++i) stepper.Step();
  for (const auto& request : requests) {
    EXPECT_GT(stepper.outcome(request).tokens.size(), 10U);
    EXPECT_LT(stepper.outcome(request).tokens.size(), 22U);
  }
}

TEST_P(SchedulerSharing, HigherPriorityIsServedFirstThenArrival) {
  FakeRunnerOptions options = Small(GetParam());
  options.limits.max_num_seqs = 1;
  Stepper stepper(options);
  const auto add = [&](const char* id, int priority) {
    const auto request = GenerateRequest(id, 2, 1);
    request->priority = priority;
    stepper.Add(request);
  };
  add("low", -1);
  add("first", 0);
  add("second", 0);
  add("high", 5);
  std::vector<std::string> order;
  while (!stepper.scheduler().idle()) {
    for (const std::string& id : Ids(stepper.Step().prefill)) order.push_back(id);
  }
  EXPECT_THAT(order, ElementsAre("high", "first", "second", "low"));
}

TEST_P(SchedulerSharing, YoungestOfTheLowestPriorityIsPreemptedAndLosesNoToken) {
  FakeRunnerOptions options = Small(GetParam());
  options.limits.num_pages = 17;  // 16 pages; three sequences grow to 8 pages each
  Stepper stepper(options);
  std::vector<std::shared_ptr<Request>> requests;
  for (const char* id : {"old", "young", "important"}) requests.push_back(GenerateRequest(id, 4, 28));
  requests[2]->priority = 1;
  for (const auto& request : requests) stepper.Add(request);
  while (stepper.scheduler().num_preemptions() == 0) stepper.Step();
  const FakeBatch batch = stepper.Step();
  EXPECT_THAT(Ids(batch.decode), ElementsAre("important", "old"));
  stepper.StepsUntilIdle();
  for (const auto& request : requests) {
    EXPECT_EQ(stepper.outcome(request).tokens, Expected(*request, stepper.limits())) << request->id;
    EXPECT_EQ(stepper.outcome(request).reason, FinishReason::kLength);
  }
}

TEST_P(SchedulerSharing, PreemptedRequestExpiresInTheQueue) {
  FakeRunnerOptions options = Small(GetParam());
  options.limits.num_pages = 9;
  options.limits.max_num_seqs = 2;
  Stepper stepper(options);
  const auto old = GenerateRequest("old", 4, 24);
  const auto young = GenerateRequest("young", 4, 24);
  const auto impatient = GenerateRequest("impatient", 4, 24);
  young->deadline = stepper.now() + absl::Seconds(2);
  impatient->deadline = stepper.now() + absl::Seconds(1);
  for (const auto& request : {old, young, impatient}) stepper.Add(request);
  stepper.Step();
  stepper.Advance(absl::Seconds(1));  // the queue is looked through while the young one is not in it
  stepper.Step();
  ASSERT_EQ(stepper.outcome(impatient).num_ends, 1);
  while (stepper.scheduler().num_preemptions() == 0) stepper.Step();
  stepper.Advance(absl::Seconds(1));
  stepper.Step();
  EXPECT_EQ(stepper.outcome(young).status.code(), absl::StatusCode::kDeadlineExceeded);
  stepper.StepsUntilIdle();
  EXPECT_EQ(stepper.outcome(old).tokens, Expected(*old, stepper.limits()));
}

TEST_P(SchedulerSharing, PreemptedRequestCanBeCancelled) {
  FakeRunnerOptions options = Small(GetParam());
  options.limits.num_pages = 9;
  Stepper stepper(options);
  const auto old = GenerateRequest("old", 4, 24);
  const auto young = GenerateRequest("young", 4, 24);
  stepper.Add(old);
  stepper.Add(young);
  while (stepper.scheduler().num_preemptions() == 0) stepper.Step();
  young->Cancel();
  stepper.Step();
  EXPECT_EQ(stepper.outcome(young).status.code(), absl::StatusCode::kCancelled);
  stepper.StepsUntilIdle();
  EXPECT_EQ(stepper.outcome(old).tokens, Expected(*old, stepper.limits()));
}

TEST_P(SchedulerSharing, SequenceThatNeedsEveryPageRunsToItsEndAlone) {
  FakeRunnerOptions options = Small(GetParam());
  options.limits.num_pages = 9;
  Stepper stepper(options);
  const auto request = GenerateRequest("a", 20, 100);
  stepper.Add(request);
  stepper.StepsUntilIdle();
  EXPECT_EQ(stepper.outcome(request).tokens.size(), 12U);  // 8 pages of 4
  EXPECT_EQ(stepper.outcome(request).tokens, Expected(*request, stepper.limits()));
  EXPECT_EQ(stepper.scheduler().num_preemptions(), 0);
}

TEST_P(SchedulerSharing, FirstInTheQueueIsNotPassedByWhileItWaitsForPages) {
  FakeRunnerOptions options = Small(GetParam());
  options.limits.num_pages = 17;
  Stepper stepper(options);
  stepper.Add(GenerateRequest("running", 4, 40));
  stepper.Step();
  const auto large = GenerateRequest("large", 62, 1);
  const auto small = GenerateRequest("small", 1, 1);
  stepper.Add(large);
  stepper.Add(small);
  while (stepper.outcome(large).num_ends == 0) {
    stepper.Step();
    if (stepper.outcome(large).num_ends == 0) {
      EXPECT_EQ(stepper.outcome(small).num_ends, 0);
    }
  }
  stepper.StepsUntilIdle();
  EXPECT_EQ(stepper.outcome(small).num_ends, 1);
}

TEST_P(SchedulerSharing, EmbedOnACausalModelTakesTemporaryPages) {
  Stepper stepper(Small(GetParam()));
  const auto request = EmbedRequest("a", 40);
  stepper.Add(request);
  EXPECT_EQ(stepper.Step().prefill.at(0).num_pages, 10);
  stepper.StepsUntilIdle();
  EXPECT_EQ(stepper.outcome(request).embedding, FakeRunner::ExpectedEmbedding(*request, 8));
  EXPECT_EQ(stepper.outcome(request).num_ends, 1);
  EXPECT_EQ(stepper.scheduler().pages().used(), 0);
}

TEST_P(SchedulerSharing, EncoderInputsAreBatchedByBudgetAndNeverCut) {
  FakeRunnerOptions options{.limits = EncoderLimits()};
  options.limits.look_ahead = GetParam();
  Stepper stepper(options);
  std::vector<std::shared_ptr<Request>> requests;
  for (const int length : {20, 10, 2, 1, 31}) requests.push_back(EmbedRequest(std::to_string(length), length));
  for (const auto& request : requests) stepper.Add(request);
  EXPECT_THAT(Ids(stepper.Step().ragged), ElementsAre("20", "10", "2"));
  EXPECT_THAT(Ids(stepper.Step().ragged), ElementsAre("1", "31"));
  stepper.StepsUntilIdle();
  for (const auto& request : requests) {
    EXPECT_EQ(stepper.outcome(request).embedding, FakeRunner::ExpectedEmbedding(*request, 8));
  }
}

}  // namespace
}  // namespace automodeld
