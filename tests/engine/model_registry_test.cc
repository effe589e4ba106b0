#include "core/model_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/engine/fake_runner.h"
#include "tests/engine/collecting_sink.h"
#include "tests/engine/requests.h"

namespace automodeld {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

// A registry whose loader makes fake models; `path` says how the load goes: "broken", "held" or well.
class ModelRegistryTest : public ::testing::Test {
 protected:
  ModelRegistryTest() {
    registry_.SetListener([this](const std::string& model, const ModelState* state) {
      changes_.emplace_back(model, state == nullptr ? "gone" : kNames[static_cast<int>(*state)]);
    });
  }

  absl::StatusOr<LoadedModel> LoadFake(const LoadOptions& options) {
    if (options.path == "broken") return absl::FailedPreconditionError("3 tensors are missing");
    if (options.path == "held") {
      loading_.set_value();
      let_go_.get_future().wait();
    }
    LoadedModel loaded;
    loaded.report.info.model = options.model;
    loaded.report.attempts.push_back({"fp8_config=rowwise", "no", "none"});
    loaded.report.notes.push_back("sample stays eager: no fused version for cuda");
    auto runner = std::make_unique<FakeRunner>(FakeRunnerOptions{.limits = SmallLimits()});
    steps_ = runner->steps();
    loaded.runner = std::move(runner);
    return loaded;
  }

  absl::Status Load(const std::string& model, const std::string& path = "", bool check_only = false) {
    LoadOptions options;
    options.model = model;
    options.path = path;
    options.check_only = check_only;
    return registry_.Load(options, {}).status();
  }

  absl::Status Unload(const std::string& model, bool drain) {
    const auto served = registry_.TakeOutOfService(model);
    if (!served.ok() || *served == nullptr) return served.status();
    (*served)->engine->Drain(drain ? absl::InfiniteFuture() : absl::InfinitePast());
    registry_.Free(model, *served);
    return absl::OkStatus();
  }

  ModelState State(const std::string& model) { return registry_.Get(model)->state; }

  static constexpr const char* kNames[] = {"loading", "ready", "unloading", "failed"};
  std::promise<void> loading_, let_go_;
  std::shared_ptr<FakeSteps> steps_;
  std::vector<std::pair<std::string, std::string>> changes_;
  Metrics metrics_;
  ModelRegistry registry_{
      [this](const LoadOptions& options, const LoadContext&) { return LoadFake(options); }, {}, &metrics_};
};

TEST_F(ModelRegistryTest, LoadedModelIsFoundAndServes) {
  ASSERT_EQ(Load("a"), absl::OkStatus());
  const auto model = registry_.Find("a");
  ASSERT_TRUE(model.ok());
  const auto request = GenerateRequest("1", 3, 4);
  const auto sink = std::make_shared<CollectingSink>();
  request->sink = sink;
  ASSERT_EQ((*model)->engine->Submit(request), absl::OkStatus());
  EXPECT_EQ(sink->AwaitFinish().token_ids.size(), 4U);
  EXPECT_EQ((*model)->report.info.model, "a");
}

TEST_F(ModelRegistryTest, UnknownModelIsNotFoundAndTheLoadedOnesAreListed) {
  EXPECT_EQ(registry_.Find("x").status(), absl::NotFoundError("model \"x\" is not loaded; loaded: none"));
  ASSERT_EQ(Load("b"), absl::OkStatus());
  ASSERT_EQ(Load("a"), absl::OkStatus());
  EXPECT_EQ(registry_.Find("x").status(), absl::NotFoundError("model \"x\" is not loaded; loaded: a, b"));
  EXPECT_EQ(Unload("x", true).code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelRegistryTest, NameIsTakenOnceItIsLoaded) {
  ASSERT_EQ(Load("a"), absl::OkStatus());
  EXPECT_EQ(Load("a"), absl::AlreadyExistsError("model \"a\" is loaded"));
}

TEST_F(ModelRegistryTest, NameIsTakenAndNotYetServedWhileItLoads) {
  std::future<absl::Status> load = std::async(std::launch::async, [this] { return Load("a", "held"); });
  loading_.get_future().wait();
  EXPECT_EQ(State("a"), ModelState::kLoading);
  EXPECT_EQ(Load("a"), absl::AlreadyExistsError("model \"a\" is loading"));
  EXPECT_EQ(registry_.Find("a").status(), absl::UnavailableError("model \"a\" is loading"));
  EXPECT_EQ(Unload("a", true).code(), absl::StatusCode::kUnavailable);
  let_go_.set_value();
  EXPECT_EQ(load.get(), absl::OkStatus());
  EXPECT_TRUE(registry_.Find("a").ok());
}

TEST_F(ModelRegistryTest, FailedLoadIsShownAndCanBeRepeatedOrForgotten) {
  EXPECT_EQ(Load("a", "broken").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(State("a"), ModelState::kFailed);
  EXPECT_EQ(registry_.Get("a")->error, "3 tensors are missing");
  EXPECT_EQ(registry_.Find("a").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Load("a"), absl::OkStatus());
  EXPECT_EQ(Load("b", "broken").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Unload("b", true), absl::OkStatus());
  EXPECT_EQ(registry_.Get("b").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelRegistryTest, OnlyTheLatestFailuresAreRemembered) {
  const auto name = [](size_t i) { return "m" + std::to_string(i); };
  for (size_t i = 0; i < ModelRegistry::kMaxFailed; ++i) EXPECT_FALSE(Load(name(i), "broken").ok());
  EXPECT_FALSE(Load(name(0), "broken").ok());  // is the latest now
  changes_.clear();
  EXPECT_FALSE(Load("one_more", "broken").ok());
  EXPECT_THAT(changes_, ElementsAre(Pair("one_more", "loading"), Pair("one_more", "failed"), Pair("m1", "gone")));
  EXPECT_EQ(registry_.List().size(), ModelRegistry::kMaxFailed);
  EXPECT_EQ(State("m0"), ModelState::kFailed);
  EXPECT_EQ(State("one_more"), ModelState::kFailed);
}

TEST_F(ModelRegistryTest, CancelledLoadLeavesNothing) {
  std::atomic<bool> cancelled = true;
  LoadContext context;
  context.cancelled = &cancelled;
  LoadOptions options;
  options.model = "a";
  EXPECT_EQ(registry_.Load(options, context).status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(registry_.List().empty());
}

TEST_F(ModelRegistryTest, CheckOnlyServesNothingEvenIfTheNameIsTaken) {
  EXPECT_EQ(Load("a", "", /*check_only=*/true), absl::OkStatus());
  EXPECT_TRUE(registry_.List().empty());
  ASSERT_EQ(Load("a"), absl::OkStatus());
  EXPECT_EQ(Load("a", "", /*check_only=*/true), absl::OkStatus());
  EXPECT_EQ(Load("a", "broken", /*check_only=*/true).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(State("a"), ModelState::kReady);
}

TEST_F(ModelRegistryTest, ListenerIsToldEveryChangeInOrder) {
  ASSERT_EQ(Load("a"), absl::OkStatus());
  ASSERT_EQ(Unload("a", true), absl::OkStatus());
  EXPECT_FALSE(Load("b", "broken").ok());
  EXPECT_THAT(changes_, ElementsAre(Pair("a", "loading"), Pair("a", "ready"), Pair("a", "unloading"), Pair("a", "gone"),
                                    Pair("b", "loading"), Pair("b", "failed")));
}

TEST_F(ModelRegistryTest, UnloadWithDrainLetsCallsFinish) {
  ASSERT_EQ(Load("a"), absl::OkStatus());
  steps_->Hold();
  const auto model = *registry_.Find("a");
  const auto request = GenerateRequest("1", 3, 4);
  const auto sink = std::make_shared<CollectingSink>();
  request->sink = sink;
  ASSERT_EQ(model->engine->Submit(request), absl::OkStatus());
  std::future<absl::Status> unload = std::async(std::launch::async, [this] { return Unload("a", true); });
  while (registry_.Find("a").ok()) std::this_thread::yield();
  EXPECT_EQ(registry_.Find("a").status(), absl::UnavailableError("model \"a\" is being unloaded"));
  steps_->Release();
  EXPECT_EQ(unload.get(), absl::OkStatus());
  EXPECT_EQ(sink->answer().token_ids.size(), 4U);
  EXPECT_EQ(registry_.Find("a").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelRegistryTest, ModelThatIsBeingUnloadedIsGivenOutAgainAndFreedOnce) {
  ASSERT_EQ(Load("a"), absl::OkStatus());
  const auto first = registry_.TakeOutOfService("a");
  const auto second = registry_.TakeOutOfService("a");
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(*first, *second);
  registry_.Free("a", *first);
  ASSERT_EQ(Load("a"), absl::OkStatus());
  registry_.Free("a", *second);  // not the new one
  EXPECT_EQ(State("a"), ModelState::kReady);
}

TEST_F(ModelRegistryTest, UnloadWithoutDrainEndsCallsAndFreesTheRunnerWhileACallStillHoldsTheModel) {
  ASSERT_EQ(Load("a"), absl::OkStatus());
  steps_->Hold();
  const auto model = *registry_.Find("a");
  const auto request = GenerateRequest("1", 3, 4);
  const auto sink = std::make_shared<CollectingSink>();
  request->sink = sink;
  ASSERT_EQ(model->engine->Submit(request), absl::OkStatus());
  steps_->AwaitLaunched(1);
  std::future<absl::Status> unload = std::async(std::launch::async, [this] { return Unload("a", false); });
  while (!model->engine->Load().draining) std::this_thread::yield();
  steps_->Release();
  EXPECT_EQ(unload.get(), absl::OkStatus());
  EXPECT_EQ(sink->answer().status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(steps_.use_count(), 1) << "the runner is still there";
  EXPECT_EQ(model->engine->Load().kv_pages_total, 0);
}

TEST_F(ModelRegistryTest, DrainRefusesCallsAndLoads) {
  ASSERT_EQ(Load("a"), absl::OkStatus());
  registry_.Drain(absl::InfiniteFuture());
  EXPECT_EQ(registry_.Find("a").status(), absl::UnavailableError("the daemon is draining"));
  EXPECT_EQ(Load("b"), absl::UnavailableError("the daemon is draining"));
  EXPECT_EQ(Load("b", "broken", /*check_only=*/true), absl::UnavailableError("the daemon is draining"));
}

TEST_F(ModelRegistryTest, LoadThatDrainOvertakesLeavesNothing) {
  std::future<absl::Status> load = std::async(std::launch::async, [this] { return Load("a", "held"); });
  loading_.get_future().wait();
  registry_.Drain(absl::InfiniteFuture());
  let_go_.set_value();
  EXPECT_EQ(load.get(), absl::UnavailableError("the daemon is draining"));
  EXPECT_TRUE(registry_.List().empty());
}

TEST_F(ModelRegistryTest, LoadsAndFallbacksAreCountedForModelsThatServeOnly) {
  EXPECT_FALSE(Load("never", "broken").ok());
  ASSERT_EQ(Load("a"), absl::OkStatus());
  const std::string text = metrics_.Serialize();
  EXPECT_THAT(text, HasSubstr("automodeld_model_load_fallbacks_total{model=\"a\",step=\"fp8_config\"} 1"));
  EXPECT_THAT(text, Not(HasSubstr("step=\"sample")));  // a note is no fallback
  EXPECT_THAT(text, HasSubstr("automodeld_model_load_seconds{model=\"a\"}"));
  EXPECT_THAT(text, Not(HasSubstr("never")));
}

// What a load is given, it gives back; all of them are in the loader at once.
TEST(ModelRegistry, LoadsAtTheSameTimeDoNotTouchEachOther) {
  constexpr int kLoads = 8;
  std::latch all_loading(kLoads);
  Metrics metrics;
  ModelRegistry registry(
      [&](const LoadOptions& options, const LoadContext&) -> absl::StatusOr<LoadedModel> {
        all_loading.arrive_and_wait();
        LoadedModel loaded;
        loaded.report.info.model = options.model;
        loaded.report.info.dtype = options.torch_dtype;
        for (uint64_t i = 0; i < options.seed; ++i) loaded.report.attempts.push_back({"fp8_config", options.model, ""});
        if (options.seed == 0) return absl::FailedPreconditionError(options.model);
        loaded.runner = std::make_unique<FakeRunner>(FakeRunnerOptions{.limits = SmallLimits()});
        return loaded;
      },
      {}, &metrics);
  std::vector<std::future<absl::StatusOr<LoadReport>>> reports;
  for (int i = 0; i < kLoads; ++i) {
    LoadOptions options;
    options.model = "model-" + std::to_string(i);
    options.torch_dtype = i % 2 == 0 ? "bfloat16" : "float32";
    options.seed = static_cast<uint64_t>(i);
    reports.push_back(std::async(std::launch::async, [&registry, options] { return registry.Load(options, {}); }));
  }
  EXPECT_EQ(reports[0].get().status(), absl::FailedPreconditionError("model-0"));
  for (int i = 1; i < kLoads; ++i) {
    const absl::StatusOr<LoadReport> report = reports[static_cast<size_t>(i)].get();
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->info.model, "model-" + std::to_string(i));
    EXPECT_EQ(report->info.dtype, i % 2 == 0 ? "bfloat16" : "float32");
    ASSERT_EQ(report->attempts.size(), static_cast<size_t>(i));
    for (const LoadAttempt& attempt : report->attempts) EXPECT_EQ(attempt.error, report->info.model);
    EXPECT_TRUE(registry.Find(report->info.model).ok());
  }
}

}  // namespace
}  // namespace automodeld
