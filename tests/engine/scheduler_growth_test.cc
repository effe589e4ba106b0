// Pages whose memory comes as they are needed, and goes when they are not.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/engine/scheduler_fixture.h"

namespace automodeld {
namespace {

// As many as are wanted.
int All(int /*mapped*/, int wanted) { return wanted; }
int None(int mapped, int /*wanted*/) { return mapped; }

class SchedulerGrowth : public SchedulerTest {
 protected:
  // 65 pages, of which a sequence of max_model_len needs 17.
  static FakeRunnerOptions Growing(int look_ahead, std::function<int(int, int)> grant) {
    FakeRunnerOptions options = Small(look_ahead);
    options.grant = std::move(grant);
    return options;
  }

  static void ExpectAllAsAlone(Stepper& stepper, const std::vector<std::shared_ptr<Request>>& requests) {
    for (const auto& request : requests) {
      EXPECT_EQ(stepper.outcome(request).tokens, Expected(*request, stepper.limits())) << request->id;
    }
  }
};

INSTANTIATE_TEST_SUITE_P(LookAhead, SchedulerGrowth, ::testing::Values(0, 1));

TEST_P(SchedulerGrowth, OneSequenceNeverWaitsForMemory) {
  Stepper stepper(Growing(GetParam(), None));
  const auto request = GenerateRequest("a", 40, 24);
  stepper.Add(request);
  EXPECT_LE(stepper.StepsUntilIdle(), 3 + 24);
  EXPECT_EQ(stepper.outcome(request).tokens, Expected(*request, stepper.limits()));
  EXPECT_EQ(stepper.runner().mapped_pages(), 17);
}

TEST_P(SchedulerGrowth, MemoryIsAskedForBeforePagesAreShort) {
  Stepper stepper(Growing(GetParam(), All));
  const auto requests = GenerateRequests(4, 4, 60);
  for (const auto& request : requests) stepper.Add(request);
  while (!stepper.scheduler().idle()) {
    stepper.Step();
    if (stepper.scheduler().num_running() == 4) {
      EXPECT_GE(stepper.scheduler().PagesWanted(), std::min(65, stepper.scheduler().pages().used() + 1 + 4));
    }
  }
  EXPECT_EQ(stepper.scheduler().num_preemptions(), 0);
  ExpectAllAsAlone(stepper, requests);
}

TEST_P(SchedulerGrowth, PromptsThatCouldStartHaveTheirMemoryInTheNextStep) {
  Stepper stepper(Growing(GetParam(), All));
  const auto requests = GenerateRequests(4, 60, 4);
  for (const auto& request : requests) stepper.Add(request);
  stepper.Step();
  EXPECT_GE(stepper.runner().mapped_pages(), 1 + 4 * 15);
}

TEST_P(SchedulerGrowth, WithoutMoreMemoryTheYoungestIsPreempted) {
  Stepper stepper(Growing(GetParam(), None));
  const auto requests = GenerateRequests(4, 4, 60);
  for (const auto& request : requests) stepper.Add(request);
  stepper.StepsUntilIdle();
  EXPECT_GT(stepper.scheduler().num_preemptions(), 0);
  ExpectAllAsAlone(stepper, requests);
}

TEST_P(SchedulerGrowth, IdleItKeepsWhatTheLastBusyTimeWanted) {
  Stepper stepper(Growing(GetParam(), All));
  auto requests = GenerateRequests(4, 60, 4);
  for (const auto& request : requests) stepper.Add(request);
  stepper.StepsUntilIdle();
  const int mapped = stepper.runner().mapped_pages();
  EXPECT_GE(mapped, 1 + 4 * 15);
  requests.push_back(GenerateRequest("one", 4, 4));
  stepper.Add(requests.back());
  stepper.Step();
  EXPECT_EQ(stepper.runner().mapped_pages(), mapped);  // nothing goes while anything runs
  stepper.StepsUntilIdle();
  EXPECT_EQ(stepper.runner().mapped_pages(), 17);
}

TEST_P(SchedulerGrowth, WhatAQueueWantedIsWantedUntilItIsServed) {
  Stepper stepper(Growing(GetParam(), None));  // room for one at a time: nothing runs when it ends, though three wait
  for (const auto& request : GenerateRequests(4, 60, 1)) stepper.Add(request);
  stepper.StepsUntilIdle();
  EXPECT_GE(stepper.scheduler().PagesWanted(), 1 + 4 * 15);
}

TEST_P(SchedulerGrowth, AnEncoderWantsNoPages) {
  FakeRunnerOptions options{.limits = EncoderLimits()};
  options.limits.look_ahead = GetParam();
  Stepper stepper(options);
  const auto request = EmbedRequest("a", 8);
  stepper.Add(request);
  stepper.StepsUntilIdle();
  EXPECT_EQ(stepper.scheduler().PagesWanted(), 0);
}

// Two models on one device: what one has mapped the other cannot.
TEST_P(SchedulerGrowth, ModelsThatShareMemoryNeverMapMoreThanThereIs) {
  constexpr int kBudget = 50;
  std::vector<std::unique_ptr<Stepper>> models;
  const auto mapped = [&] {
    int pages = 0;
    for (const auto& model : models) pages += model->runner().mapped_pages();
    return pages;
  };
  const auto grant = [&](int now, int wanted) { return std::min(wanted, now + kBudget - mapped()); };
  for (int i = 0; i < 2; ++i) models.push_back(std::make_unique<Stepper>(Growing(GetParam(), grant)));
  std::mt19937 random(7);
  std::vector<std::shared_ptr<Request>> requests;
  bool short_of_memory = false;
  for (int i = 0; i < 4000 || !models[0]->scheduler().idle() || !models[1]->scheduler().idle(); ++i) {
    const bool first_is_busy = i / 200 % 2 == 0;  // they are busy in turn, so that memory has to change hands
    Stepper& model = *models[random() % 2];
    if (i < 4000 && random() % 8 == 0 && (&model == models[0].get()) == first_is_busy) {
      requests.push_back(GenerateRequest(std::to_string(i), 1 + static_cast<int>(random() % 40), 20));
      model.Add(requests.back());
    }
    for (const auto& stepper : models) stepper->Step();
    ASSERT_LE(mapped(), kBudget);
    short_of_memory |= mapped() == kBudget;
    ASSERT_FALSE(HasFailure());
    ASSERT_LT(i, 100000);
  }
  EXPECT_TRUE(short_of_memory);
  for (const auto& request : requests) {
    for (const auto& model : models) {
      if (model->outcome(request).num_ends == 0) continue;
      EXPECT_EQ(model->outcome(request).tokens, Expected(*request, model->limits())) << request->id;
    }
  }
  for (const auto& model : models) {
    requests.push_back(GenerateRequest("last", 4, 4));
    model->Add(requests.back());
    model->StepsUntilIdle();
  }
  EXPECT_EQ(mapped(), 2 * 17);
}

}  // namespace
}  // namespace automodeld
