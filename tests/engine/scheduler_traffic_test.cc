// Long random traffic through the scheduler: whatever comes, the invariants hold after every step, and every request
// that is not disturbed gets the tokens that it gets alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "core/engine/fake_runner.h"
#include "tests/engine/requests.h"
#include "tests/engine/stepper.h"

namespace automodeld {
namespace {

struct Traffic {
  const char* name;
  RunnerLimits limits;
  int num_requests;
  double arrivals_per_step;
  int min_preemptions = 0;  // so that it is known to be tested
  double growth = -1;       // how often memory is there when asked for; below 0: all pages have it from the start
};

void PrintTo(const Traffic& traffic, std::ostream* out) { *out << traffic.name; }

class RandomTraffic : public ::testing::TestWithParam<std::tuple<Traffic, int>> {
 protected:
  int Draw(int low, int high) { return std::uniform_int_distribution(low, high)(random_); }
  bool Chance(double probability) { return std::bernoulli_distribution(probability)(random_); }

  std::shared_ptr<Request> RandomRequest(const RunnerLimits& limits, absl::Time now) {
    const int longest = MaxSequenceLength(limits) - 1;
    const int length = Chance(0.2) ? Draw(1, longest) : Draw(1, std::min(8, longest));
    const std::string id = std::to_string(++num_made_);
    const bool embed = limits.ragged || Chance(0.2);
    auto request = embed ? EmbedRequest(id, length) : GenerateRequest(id, length, Draw(1, 40));
    request->prompt = Prompt(length, Draw(0, 1000));
    request->sampling.temperature = Chance(0.5) ? 0.0F : 1.0F;
    request->sampling.seed = static_cast<uint64_t>(Draw(0, 1000));
    request->sampling.min_tokens = Chance(0.2) ? Draw(0, 10) : 0;
    if (Chance(0.5)) request->sampling.stop_token_ids = {3, 17, 40};
    request->priority = Chance(0.3) ? Draw(-2, 2) : 0;
    if (Chance(0.1)) request->deadline = now + absl::Seconds(Draw(0, 60));
    return request;
  }

  void Arrive(Stepper& stepper, const Traffic& traffic) {
    std::poisson_distribution<int> arrivals(traffic.arrivals_per_step);
    for (int i = arrivals(random_); i > 0 && num_made_ < traffic.num_requests; --i) {
      requests_.push_back(RandomRequest(stepper.limits(), stepper.now()));
      stepper.Add(requests_.back());
    }
  }

  // Now and then cancels a request, or ends it as delivery does; it may have ended long ago.
  void Disturb(Stepper& stepper) {
    const auto any = [this]() -> Request& {
      return *requests_[static_cast<size_t>(Draw(0, static_cast<int>(requests_.size()) - 1))];
    };
    if (Chance(0.05)) any().Cancel();
    if (Chance(0.05)) {
      stepper.scheduler().End(any(), absl::OkStatus(), FinishReason::kStopSequence, stepper.now());
    }
  }

  // What was cut short may be shorter, but not different. Returns whether the answer is whole.
  static bool ExpectSameAsAlone(const Request& request, Stepper& stepper, const FakeRunnerOptions& options) {
    const Outcome& outcome = stepper.outcome(request);
    EXPECT_EQ(outcome.num_ends, 1) << request.id;
    const bool whole = outcome.status.ok() && outcome.reason != FinishReason::kStopSequence;
    if (request.kind == Request::Kind::kEmbed) {
      EXPECT_EQ(outcome.embedding,
                whole ? FakeRunner::ExpectedEmbedding(request, options.hidden_size) : std::vector<float>());
      return whole;
    }
    std::vector<TokenId> expected = FakeRunner::ExpectedTokens(request, options.limits, options.next_token);
    if (!whole) expected.resize(std::min(expected.size(), outcome.tokens.size()));
    EXPECT_EQ(outcome.tokens, expected) << request.id;
    return whole;
  }

  // Some of what is wanted, or nothing.
  int Grant(double chance, int mapped, int wanted) { return Chance(chance) ? Draw(mapped, wanted) : mapped; }

  std::mt19937 random_{20240607};
  int num_made_ = 0;
  std::vector<std::shared_ptr<Request>> requests_;
};

RunnerLimits Limits(int seqs, int budget, int pages, bool ragged = false) {
  return {.max_model_len = 48,
          .max_num_seqs = seqs,
          .max_num_batched_tokens = budget,
          .page_size = 4,
          .num_pages = pages,
          .look_ahead = 0,
          .ragged = ragged};
}

INSTANTIATE_TEST_SUITE_P(
    Engine, RandomTraffic,
    ::testing::Combine(::testing::Values(Traffic{"Ample", Limits(16, 64, 257), 6000, 1.0},
                                         Traffic{"FewPages", Limits(16, 64, 21), 3000, 0.3, 20},
                                         Traffic{"PagesForOne", Limits(8, 32, 13), 1500, 0.1},
                                         Traffic{"SmallBudget", Limits(16, 5, 60), 2000, 0.2},
                                         Traffic{"BudgetOfOne", Limits(4, 1, 40), 500, 0.02},
                                         Traffic{"OneSlot", Limits(1, 16, 20), 1200, 0.1},
                                         Traffic{"Growing", Limits(16, 64, 257), 4000, 1.0, 0, 0.3},
                                         Traffic{"SeldomGrowing", Limits(16, 64, 65), 3000, 0.3, 20, 0.02},
                                         Traffic{"Encoder", Limits(8, 64, 0, true), 8000, 2.0}),
                       ::testing::Values(0, 1)),
    [](const auto& tested) {
      return std::string(std::get<0>(tested.param).name) + (std::get<1>(tested.param) == 0 ? "" : "LookAhead");
    });

TEST_P(RandomTraffic, EveryRequestEndsOnceWithTheTokensItGetsAlone) {
  const auto& [traffic, look_ahead] = GetParam();
  FakeRunnerOptions options{.limits = traffic.limits, .next_token = HashedTokens(64)};
  options.limits.look_ahead = look_ahead;
  if (traffic.growth >= 0) {
    options.grant = [this, chance = traffic.growth](int mapped, int wanted) { return Grant(chance, mapped, wanted); };
  }
  Stepper stepper(options);
  for (int num_steps = 0; num_made_ < traffic.num_requests || !stepper.scheduler().idle(); ++num_steps) {
    Arrive(stepper, traffic);
    if (!requests_.empty()) Disturb(stepper);
    const FakeBatch batch = stepper.Step();
    ASSERT_LE(batch.num_tokens(), options.limits.max_num_batched_tokens);
    ASSERT_LE(stepper.scheduler().num_running(), options.limits.max_num_seqs);
    ASSERT_FALSE(HasFailure());
    ASSERT_LT(num_steps, 200000);
    stepper.Advance(absl::Seconds(1));
  }
  EXPECT_EQ(stepper.scheduler().pages().used(), 0);
  EXPECT_EQ(stepper.scheduler().pages().num_free(), stepper.scheduler().pages().mapped());
  int num_whole = 0;
  for (const auto& request : requests_) num_whole += ExpectSameAsAlone(*request, stepper, options) ? 1 : 0;
  EXPECT_GT(num_whole, traffic.num_requests / 4);
  EXPECT_GE(stepper.scheduler().num_preemptions(), traffic.min_preemptions);
}

}  // namespace
}  // namespace automodeld
