#include "core/load_meter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace automodeld {
namespace {

TEST(LoadMeter, TellsEachPhaseAndAtMostEvery50Milliseconds) {
  std::vector<LoadProgress> told;
  LoadContext context;
  context.progress = [&](const LoadProgress& progress) { told.push_back(progress); };
  LoadMeter meter(context);
  meter.Begin("config");
  meter.Begin("weights", 1000000);
  for (int i = 0; i < 1000000; ++i) meter.Advance(1);
  meter.Advance(1);
  ASSERT_GE(told.size(), 2U);
  EXPECT_EQ(told[0].phase, "config");
  EXPECT_EQ(told[1].phase, "weights");
  EXPECT_EQ(told[1].total_bytes, 1000000);
  for (size_t i = 2; i < told.size(); ++i) {
    EXPECT_GE(told[i].seconds - told[i - 1].seconds, 0.049);
    EXPECT_LE(told[i].done_bytes, 1000000);
  }
  const auto seconds = meter.Finish();
  ASSERT_EQ(seconds.size(), 2U);
  EXPECT_EQ(seconds[1].first, "weights");
}

TEST(LoadMeter, IsCancelledByTheFlagAndWorksWithoutOne) {
  LoadContext context;
  LoadMeter unstoppable(context);
  EXPECT_TRUE(unstoppable.Check().ok());
  std::atomic<bool> flag = false;
  context.cancelled = &flag;
  LoadMeter meter(context);
  EXPECT_TRUE(meter.Check().ok());
  flag = true;
  EXPECT_EQ(meter.Check().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace automodeld
