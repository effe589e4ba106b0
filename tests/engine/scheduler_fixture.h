// What the tests of the scheduler share.
#ifndef TESTS_ENGINE_SCHEDULER_FIXTURE_H_
#define TESTS_ENGINE_SCHEDULER_FIXTURE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/engine/fake_runner.h"
#include "tests/engine/requests.h"
#include "tests/engine/stepper.h"

namespace automodeld {

// Every promise about requests holds with and without look-ahead.
class SchedulerTest : public ::testing::TestWithParam<int> {
 protected:
  static FakeRunnerOptions Small(int look_ahead) {
    FakeRunnerOptions options{.limits = SmallLimits()};
    options.limits.look_ahead = look_ahead;
    return options;
  }

  static std::vector<TokenId> Expected(const Request& request, const RunnerLimits& limits) {
    return FakeRunner::ExpectedTokens(request, limits, HashedTokens(256));
  }

  static std::vector<std::string> Ids(const std::vector<FakeItem>& items) {
    std::vector<std::string> ids(items.size());
    std::transform(items.begin(), items.end(), ids.begin(), [](const FakeItem& item) { return item.request_id; });
    return ids;
  }
};

}  // namespace automodeld

#endif  // TESTS_ENGINE_SCHEDULER_FIXTURE_H_
