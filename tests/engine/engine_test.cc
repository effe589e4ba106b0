// What the engine takes, refuses and answers.
#include "core/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "core/engine/fake_runner.h"
#include "tests/engine/collecting_sink.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/letters_tokenizer.h"
#include "tests/engine/requests.h"

namespace automodeld {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

INSTANTIATE_TEST_SUITE_P(LookAhead, EngineTest, ::testing::Values(0, 1));

TEST_P(EngineTest, ManyRequestsAtOnceGetTheTokensTheyGetAlone) {
  Start();
  std::vector<std::shared_ptr<Request>> requests = Generates(50, 1, 12);
  for (int i = 0; i < 50; ++i) requests[static_cast<size_t>(i)]->prompt = Prompt(1 + i, i);
  for (const auto& request : requests) ASSERT_EQ(engine_->Submit(request), absl::OkStatus());
  for (const auto& request : requests) {
    const Answer answer = sink(request).AwaitFinish();
    EXPECT_EQ(answer.status, absl::OkStatus());
    EXPECT_EQ(answer.token_ids, Expected(*request));
  }
  ExpectNothingLeft();
  for (const auto& request : requests) EXPECT_EQ(sink(request).answer().num_finishes, 1);
}

TEST_P(EngineTest, FullQueueRefusesWithTheNumber) {
  options_.limits.max_num_seqs = 2;
  engine_options_.max_queue_size = 3;
  StartHeld();
  const auto requests = Generates(5, 2, 3);
  for (const auto& request : requests) ASSERT_EQ(engine_->Submit(request), absl::OkStatus());
  EXPECT_EQ(engine_->Submit(Generate("one more", 2, 3)),
            absl::ResourceExhaustedError("queue is full: 3 requests waiting (--max-queue-size 3)"));
  steps_->Release();
  for (const auto& request : requests) EXPECT_EQ(sink(request).AwaitFinish().status, absl::OkStatus());
  EXPECT_EQ(engine_->Submit(Generate("later", 2, 3)), absl::OkStatus());
}

TEST_P(EngineTest, CallOfManyRequestsIsTakenWholeOrNotAtAll) {
  options_.limits.max_num_seqs = 1;
  engine_options_.max_queue_size = 2;
  StartHeld();
  const auto call = Generates(10, 2, 1);
  ASSERT_EQ(engine_->Submit(call), absl::OkStatus());
  std::vector<std::shared_ptr<Request>> second = {Generate("a", 2, 1), Generate("b", 2, 1)};
  EXPECT_EQ(engine_->Submit(second).code(), absl::StatusCode::kResourceExhausted);
  steps_->Release();
  for (const auto& request : call) EXPECT_EQ(sink(request).AwaitFinish().status, absl::OkStatus());
  second[1] = Generate("too long", 65, 1);
  EXPECT_EQ(engine_->Submit(second).code(), absl::StatusCode::kResourceExhausted);
  ExpectNothingLeft();
  EXPECT_EQ(sink(second[0]).answer().num_finishes, 0);
}

TEST_P(EngineTest, WhatCanNeverFitIsRefusedAtOnce) {
  Start();
  EXPECT_EQ(engine_->Submit(Generate("a", 65, 1)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(engine_->Submit(Generate("a", 64, 1)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(engine_->Submit(Generate("a", 0, 1)).code(), absl::StatusCode::kInvalidArgument);
  const auto stop = Generate("a", 2, 1);
  stop->sampling.stop = {"x"};
  EXPECT_EQ(engine_->Submit(stop).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_P(EngineTest, StopStringEndsTheCompletionAndTheSequence) {
  tokenizer_ = LettersTokenizer();
  options_.next_token = ScriptedTokens({0, 1, 2, 3, 0});
  Start();
  const auto request = Generate("a", 2, 60);
  request->sampling.stop = {"bc"};
  ASSERT_EQ(engine_->Submit(request), absl::OkStatus());
  const Answer answer = sink(request).AwaitFinish();
  EXPECT_EQ(answer.text, "a");
  EXPECT_EQ(answer.reason, FinishReason::kStopSequence);
  EXPECT_THAT(answer.token_ids, ElementsAre(0, 1, 2));
  ExpectNothingLeft();
  EXPECT_EQ(sink(request).answer().num_finishes, 1);
}

TEST_P(EngineTest, RequestsAreLetGoOfAfterTheirEnd) {
  Start();
  auto request = Generate("a", 2, 20);
  ASSERT_EQ(engine_->Submit(request), absl::OkStatus());
  sink(request).AwaitFinish();
  engine_->Shutdown();
  EXPECT_EQ(request.use_count(), 1);
}

TEST_P(EngineTest, MetricsShowTheWorkAndEndAtZero) {
  StartHeld();
  const auto request = Generate("a", 6, 20);
  ASSERT_EQ(engine_->Submit(request), absl::OkStatus());
  steps_->AwaitLaunched(1);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("automodeld_running{model=\"m\"} 1"));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("automodeld_kv_pages_total{model=\"m\"} 64"));
  steps_->Release();
  sink(request).AwaitFinish();
  ExpectNothingLeft();
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("automodeld_running{model=\"m\"} 0"));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("automodeld_kv_pages_used{model=\"m\"} 0"));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("automodeld_generated_tokens_total{model=\"m\"} 20"));
}

TEST_P(EngineTest, PagesGetMemoryWhileStepsRunAndGiveItBackIdle) {
  options_.grant = [](int /*mapped*/, int wanted) { return wanted; };
  Start();
  EXPECT_EQ(engine_->Load().kv_pages_mapped, 16);
  EXPECT_EQ(engine_->Load().kv_pages_total, 64);
  const auto requests = Generates(4, 40, 20);
  ASSERT_EQ(engine_->Submit(requests), absl::OkStatus());
  for (const auto& request : requests) sink(request).AwaitFinish();
  while (engine_->Load().running > 0) std::this_thread::yield();
  EXPECT_GE(engine_->Load().kv_pages_mapped, 4 * 10);
  const auto last = Generate("last", 4, 2);
  ASSERT_EQ(engine_->Submit(last), absl::OkStatus());
  sink(last).AwaitFinish();
  while (engine_->Load().kv_pages_mapped > 16) std::this_thread::yield();
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("automodeld_kv_pages_mapped{model=\"m\"} 16"));
}

TEST_P(EngineTest, EmbedsOnAnEncoder) {
  options_.limits = EncoderLimits();
  options_.limits.look_ahead = GetParam();
  Start();
  std::vector<std::shared_ptr<Request>> call;
  const auto together = std::make_shared<CollectingSink>();
  for (int i = 0; i < 100; ++i) {
    call.push_back(EmbedRequest(std::to_string(i), 1 + i % 30));
    call.back()->index = i;
    call.back()->sink = together;
  }
  ASSERT_EQ(engine_->Submit(call), absl::OkStatus());
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(together->AwaitFinish(i).embedding,
              FakeRunner::ExpectedEmbedding(*call[static_cast<size_t>(i)], options_.hidden_size));
  }
  EXPECT_EQ(engine_->Submit(Generate("a", 2, 2)).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Engine, IdleEngineRunsNoStepAndUsesNoProcessorTime) {
  Metrics metrics;
  auto runner = std::make_unique<FakeRunner>(FakeRunnerOptions{.limits = SmallLimits()});
  const auto steps = runner->steps();
  Engine engine("m", std::move(runner), nullptr, {}, metrics.ForModel("m"));
  const auto request = GenerateRequest("a", 2, 3);
  const auto sink = std::make_shared<CollectingSink>();
  request->sink = sink;
  ASSERT_EQ(engine.Submit(request), absl::OkStatus());
  sink->AwaitFinish();
  const std::clock_t before = std::clock();
  std::promise<void> never;  // a span of time to measure over; nothing happens in it
  never.get_future().wait_for(std::chrono::milliseconds(200));
  const double seconds = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  EXPECT_LT(seconds, 0.05);
  EXPECT_EQ(steps->num_launched(), 3);
}

}  // namespace
}  // namespace automodeld
