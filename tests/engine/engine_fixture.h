// What the tests of the engine share.
#ifndef TESTS_ENGINE_ENGINE_FIXTURE_H_
#define TESTS_ENGINE_ENGINE_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/engine/engine.h"
#include "core/engine/fake_runner.h"
#include "tests/engine/collecting_sink.h"
#include "tests/engine/requests.h"

namespace automodeld {

// An engine over a fake runner, with and without look-ahead.
class EngineTest : public ::testing::TestWithParam<int> {
 protected:
  EngineTest() {
    options_.limits = SmallLimits();
    options_.limits.look_ahead = GetParam();
  }

  ~EngineTest() override {
    steps_->Release();
    if (engine_ != nullptr) {
      engine_->Drain(absl::InfinitePast());
      ExpectNothingLeft();
    }
    engine_.reset();
    EXPECT_THAT(steps_->violations(), ::testing::IsEmpty());
  }

  void Start() {
    auto runner = std::make_unique<FakeRunner>(options_);
    steps_ = runner->steps();
    engine_ = std::make_unique<Engine>("m", std::move(runner), tokenizer_, engine_options_, metrics_.ForModel("m"));
  }

  // Starts with steps that do not end until they are let go.
  void StartHeld() {
    Start();
    steps_->Hold();
  }

  std::shared_ptr<Request> Generate(const std::string& id, int num_prompt_tokens, int max_tokens) {
    auto request = GenerateRequest(id, num_prompt_tokens, max_tokens);
    request->arrival = absl::InfinitePast();
    request->sink = std::make_shared<CollectingSink>();
    return request;
  }

  std::vector<std::shared_ptr<Request>> Generates(int count, int num_prompt_tokens, int max_tokens) {
    std::vector<std::shared_ptr<Request>> requests(static_cast<size_t>(count));
    for (size_t i = 0; i < requests.size(); ++i) {
      requests[i] = Generate(std::to_string(i), num_prompt_tokens, max_tokens);
    }
    return requests;
  }

  static CollectingSink& sink(const std::shared_ptr<Request>& request) {
    return static_cast<CollectingSink&>(*request->sink);
  }

  std::vector<TokenId> Expected(const Request& request) {
    return FakeRunner::ExpectedTokens(request, options_.limits, options_.next_token);
  }

  // Everything has ended, and the engine has forgotten it.
  void ExpectNothingLeft() {
    engine_->Drain(absl::InfiniteFuture());
    const EngineLoad load = engine_->Load();
    EXPECT_EQ(load.running, 0);
    EXPECT_EQ(load.waiting, 0);
    EXPECT_EQ(load.kv_pages_used, 0);
  }

  void AwaitDraining() {
    while (!engine_->Load().draining) std::this_thread::yield();
  }

  FakeRunnerOptions options_;
  EngineOptions engine_options_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  Metrics metrics_;
  std::shared_ptr<FakeSteps> steps_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace automodeld

#endif  // TESTS_ENGINE_ENGINE_FIXTURE_H_
