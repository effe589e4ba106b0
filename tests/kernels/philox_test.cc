#include "kernels/philox.h"

#include <gtest/gtest.h>

namespace automodeld {
namespace {

void ExpectWords(PhiloxWords got, PhiloxWords expected) {
  EXPECT_EQ(got.x, expected.x);
  EXPECT_EQ(got.y, expected.y);
  EXPECT_EQ(got.z, expected.z);
  EXPECT_EQ(got.w, expected.w);
}

// Random123's known answers for philox4x32-10.
TEST(Philox, GivesTheKnownAnswers) {
  ExpectWords(Philox(0, 0), {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  ExpectWords(Philox(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}), {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  ExpectWords(Philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
              {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST(Philox, UniformIsTheUpperBitsAsAFraction) {
  EXPECT_EQ(UniformDouble({0, 0, 0, 0}), 0.0);
  EXPECT_EQ(UniformDouble({0, 0x80000000, 0, 0}), 0.5);
  EXPECT_EQ(UniformDouble({0xffffffff, 0xffffffff, 0, 0}), 1.0 - 0x1p-53);
}

}  // namespace
}  // namespace automodeld
