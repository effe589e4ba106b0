#include "kernels/memory_budget.h"

#include <gtest/gtest.h>

#include <optional>
#include <utility>

namespace automodeld {
namespace {

class MemoryBudgetTest : public ::testing::Test {
 protected:
  int64_t free_ = 100;
  MemoryBudget budget_{[this] { return free_; }};
};

TEST_F(MemoryBudgetTest, WithoutClaimsWhatIsFreeIsAvailable) {
  EXPECT_EQ(budget_.Available(), 100);
  free_ = 7;
  EXPECT_EQ(budget_.Available(), 7);
  EXPECT_FALSE(budget_.TryClaim(8).has_value());
  EXPECT_TRUE(budget_.TryClaim(7).has_value());
  EXPECT_EQ(budget_.Available(), 7);  // the claim has ended
}

TEST_F(MemoryBudgetTest, WhatIsPromisedIsNotPromisedTwice) {
  auto first = budget_.TryClaim(60);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(budget_.Available(), 40);
  EXPECT_FALSE(budget_.TryClaim(41).has_value());
  auto second = budget_.TryClaim(40);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(budget_.Available(), 0);
}

TEST_F(MemoryBudgetTest, WhatAClaimHasTakenIsNotCountedTwice) {
  auto claim = budget_.TryClaim(60);
  ASSERT_TRUE(claim.has_value());
  free_ = 70;  // 30 of 60 are taken
  EXPECT_EQ(budget_.Available(), 40);
  auto other = budget_.TryClaim(10);
  ASSERT_TRUE(other.has_value());
  free_ = 40;
  claim->Settle();
  EXPECT_EQ(budget_.Available(), 30);
  other.reset();
  EXPECT_EQ(budget_.Available(), 40);
}

TEST_F(MemoryBudgetTest, AClaimThatFailedGivesItsPromiseBack) {
  auto first = budget_.TryClaim(60);
  auto second = budget_.TryClaim(30);
  ASSERT_TRUE(first.has_value() && second.has_value());
  first.reset();
  EXPECT_EQ(budget_.Available(), 70);
}

TEST_F(MemoryBudgetTest, AClaimIsResizedAgainstWhatWasFreeWhenItBegan) {
  auto claim = budget_.TryClaim(60);
  ASSERT_TRUE(claim.has_value());
  free_ = 50;  // half of it is taken already
  EXPECT_FALSE(claim->Resize(101));
  EXPECT_EQ(budget_.Available(), 40);
  EXPECT_TRUE(claim->Resize(100));
  EXPECT_EQ(budget_.Available(), 0);
}

TEST_F(MemoryBudgetTest, WhatOthersTakeMeanwhileIsNotThereForClaims) {
  const auto claim = budget_.TryClaim(60);
  budget_.Taken(30);
  free_ = 70;
  EXPECT_EQ(budget_.Available(), 10);
  budget_.Taken(-30);
  EXPECT_EQ(budget_.Available(), 40);
}

}  // namespace
}  // namespace automodeld
