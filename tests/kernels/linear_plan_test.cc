#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "kernels/cuda/skinny_linear_plan.h"

namespace automodeld {
namespace {

constexpr int kTileRows = 64, kBlockBytes = 128;

TEST(SkinnyLinearPlan, EveryShapeFitsTheProcessorAndIsCovered) {
  for (const int64_t out : {1, 7, 64, 100, 1024, 4096, 6144, 28672, 128256, 1 << 22}) {
    for (const int64_t row_bytes : {16, 128, 144, 512, 1024, 4096, 8192, 28672}) {
      for (const int processors : {78, 114, 132}) {
        for (int64_t rows = 1; rows <= kMaxSkinnyRows; ++rows) {
          ASSERT_TRUE(IsSkinny(rows, out, row_bytes));
          const SkinnyPlan plan = PlanSkinnyLinear(rows, out, row_bytes, processors);
          const int split = 1 << plan.split_bits, stage = (plan.groups * kTileRows + plan.tokens) * kBlockBytes;
          EXPECT_TRUE(plan.tokens >= rows && (plan.tokens == 8 || plan.tokens < 2 * rows)) << rows;
          EXPECT_GE(int64_t{plan.tiles} * plan.groups * kTileRows, out);
          EXPECT_GE(int64_t{plan.k_blocks} * kBlockBytes, row_bytes);
          EXPECT_TRUE(split <= 8 && split <= plan.k_blocks) << split << " of " << plan.k_blocks;
          EXPECT_TRUE(split == 1 ? plan.clusters <= plan.tiles : plan.clusters == plan.tiles);
          // Two stages run at a time.
          EXPECT_GE(plan.stages, plan.k_blocks / split >= 2 ? 2 : 1) << rows << " " << out << " " << row_bytes;
          EXPECT_TRUE(split == 1 || plan.groups == 1);
          const int parts = split == 1 ? 0 : std::max(8 * split, plan.tokens) * kTileRows * 4;
          EXPECT_GE(plan.shared_bytes, plan.stages * stage + parts);
          EXPECT_LE(plan.shared_bytes, 227 << 10);
        }
      }
    }
  }
}

TEST(SkinnyLinearPlan, SmallMatricesAreSplitUntilTheyFillTheProcessorsAndLargeOnesAreWalked) {
  const auto plan = [](int64_t rows, int64_t out, int64_t row_bytes) {
    const SkinnyPlan p = PlanSkinnyLinear(rows, out, row_bytes, 132);
    return std::tuple(p.groups, 1 << p.split_bits, p.clusters);
  };
  EXPECT_EQ(plan(1, 6144, 4096), std::tuple(1, 2, 96));     // qkv of Llama-3.1-8B in FP8
  EXPECT_EQ(plan(1, 4096, 4096), std::tuple(1, 4, 64));     // o
  EXPECT_EQ(plan(16, 4096, 4096), std::tuple(1, 1, 64));    // o, where adding up many tokens' parts costs more
  EXPECT_EQ(plan(64, 4096, 4096), std::tuple(1, 1, 64));    // the same
  EXPECT_EQ(plan(1, 28672, 4096), std::tuple(1, 1, 224));   // gate_up: two tiles for each block
  EXPECT_EQ(plan(64, 4096, 14336), std::tuple(1, 2, 64));   // down
  EXPECT_EQ(plan(1, 128256, 8192), std::tuple(2, 1, 251));  // lm_head in bfloat16: four tiles of 128 rows for each
  EXPECT_EQ(plan(1, 4096, 8192), std::tuple(1, 4, 64));     // o in bfloat16
  EXPECT_EQ(plan(64, 4096, 8192), std::tuple(1, 2, 64));    // no more than a block for each processor
  EXPECT_EQ(plan(1, 1024, 6144), std::tuple(1, 8, 16));     // down of Qwen3-0.6B in bfloat16
}

TEST(SkinnyLinearPlan, AllTheRowsUpToAPowerOfTwoTakeItsPlan) {
  for (const int64_t rows : {33, 48, 63}) {
    const SkinnyPlan one = PlanSkinnyLinear(rows, 4096, 4096, 132), other = PlanSkinnyLinear(64, 4096, 4096, 132);
    EXPECT_EQ(std::tie(one.tokens, one.stages, one.clusters), std::tie(other.tokens, other.stages, other.clusters));
  }
}

TEST(SkinnyLinearPlan, ManyRowsAndOddWidthsAreForTheLibrary) {
  EXPECT_FALSE(IsSkinny(0, 4096, 4096));
  EXPECT_FALSE(IsSkinny(65, 4096, 4096));
  EXPECT_FALSE(IsSkinny(1, 4096, 4104));
  EXPECT_FALSE(IsSkinny(1, 4096, 0));
  EXPECT_FALSE(IsSkinny(1, int64_t{1} << 31, 4096));
}

}  // namespace
}  // namespace automodeld
