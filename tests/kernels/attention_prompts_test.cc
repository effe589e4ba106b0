// What flash_attention_2 promises of steps with many rows of prompts, which a Hopper GPU has a kernel of its own for.
// Every step here is large enough for it on any of them, with heads of 64 or 128 and a cache of the queries' type.
#include <gtest/gtest.h>

#include "kernels/attention.h"
#include "tests/kernels/attention_fixture.h"
#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

// As in attention_test.cc: a few units in the last place of values up to about 4.
double Tolerance(at::ScalarType dtype) { return dtype == at::kHalf ? 4e-3 : 3e-2; }

std::unique_ptr<AttentionBackend> Backend(const TestStep& step) {
  return std::move(*MakeAttention("flash_attention_2", step.needs(), {}));
}

void Check(const TestShape& shape, const std::vector<TestSequence>& paged, const std::vector<TestSequence>& ragged) {
  const TestStep step(shape, paged, ragged);
  const at::Tensor difference = (step.Run(*Backend(step)) - step.Expected()).abs();
  EXPECT_LE(difference.max().item<double>(), Tolerance(shape.dtype)) << Describe(shape);
}

// Lengths on both sides of a tile's 128 packed rows and keys, whatever the group, with and without earlier chunks.
std::vector<TestSequence> Prompts() {
  std::vector<TestSequence> all;
  for (const int64_t before : {0, 1, 15, 16, 17, 127, 128, 129, 1000}) {
    for (const int64_t rows : {31, 33, 127, 128, 129, 257}) all.push_back({rows, before + rows});
  }
  for (int64_t rows = 2; rows <= 300; rows += 13) all.push_back({rows, rows});
  return all;
}

class PromptAttention : public GpuTest {};

TEST_F(PromptAttention, TakesEveryLengthContextAndGroup) {
  for (const int64_t head_dim : {64, 128}) {
    for (const int64_t group : {1, 3, 4, 5, 7, 8}) {
      Check({.device = Best(),
             .dtype = group % 2 == 0 ? at::kHalf : at::kBFloat16,
             .heads = 2 * group,
             .kv_heads = 2,
             .head_dim = head_dim},
            Prompts(), {});
    }
  }
}

// Pages of e4m3 are made the queries' type first, unless there are many for each row: the last step's.
TEST_F(PromptAttention, TakesEveryLengthContextAndGroupOfAnFp8Cache) {
  for (const int64_t head_dim : {64, 128}) {
    for (const int64_t page_size : {16, 48}) {
      const TestShape shape{.device = Best(),
                            .dtype = page_size == 16 ? at::kBFloat16 : at::kHalf,
                            .heads = 8,
                            .kv_heads = 2,
                            .head_dim = head_dim,
                            .page_size = page_size,
                            .kv_dtype = at::kFloat8_e4m3fn,
                            .k_scale = 0.4,
                            .v_scale = 2.5};
      Check(shape, Prompts(), {});
      Check(shape, {{1, 70}, {1, 3000}, {300, 900}, {200, 200}}, {});
      Check(shape, {{1, 70}, {40, 9000}, {60, 60}, {300, 12000}}, {{50, 50}, {400, 400}});
    }
  }
}

// Tiles are of whole tokens: of 119 rows, 65, 128; more than 128 are not for that kernel.
TEST_F(PromptAttention, TakesGroupsThatFillATileOrDoNotFitIntoOne) {
  for (const int64_t group : {17, 65, 128, 129}) {
    Check({.device = Best(), .dtype = at::kBFloat16, .heads = 8 * group, .kv_heads = 8, .head_dim = 64},
          {{90, 170}, {33, 33}, {2, 40}}, {});
  }
}

TEST_F(PromptAttention, MasksCapsAndSinksAreAsEagerDefinesThem) {
  for (const int64_t head_dim : {64, 128}) {
    for (const int64_t window : {1, 40, 128, 500}) {
      TestShape shape{.device = Best(),
                      .dtype = at::kBFloat16,
                      .heads = 8,
                      .kv_heads = 2,
                      .head_dim = head_dim,
                      .window = window,
                      .sinks = window % 20 == 0};
      Check(shape, Prompts(), {});
      shape.soft_cap = window == 1 ? 0.7 : 30.0;
      Check(shape, Prompts(), {{70, 70}, {300, 300}});
    }
  }
}

TEST_F(PromptAttention, TakesPagesOfAnySixteens) {
  for (const int64_t page_size : {32, 48, 256}) {
    Check({.device = Best(),
           .dtype = at::kHalf,
           .heads = 10,
           .kv_heads = 2,
           .head_dim = 128,
           .page_size = page_size,
           .window = page_size == 48 ? 90 : 0},
          Prompts(), {});
  }
}

TEST_F(PromptAttention, EncodersSeeAllOfTheirOwnRows) {
  std::vector<TestSequence> ragged;
  for (int64_t i = 0; i < 60; ++i) ragged.push_back({1 + i * 47 % 300, 0});
  for (const int64_t head_dim : {64, 128}) {
    for (const int64_t group : {1, 4}) {
      for (const bool causal : {false, true}) {
        Check({.device = Best(),
               .dtype = at::kBFloat16,
               .heads = 6 * group,
               .kv_heads = 6,
               .head_dim = head_dim,
               .window = group == 4 ? 60 : 0,
               .causal = causal},
              {}, ragged);
      }
    }
  }
}

// Decode rows, chunks of prompts and ragged rows in one step, by three kernels into one result.
TEST_F(PromptAttention, SharesAStepWithDecodeAndRaggedRows) {
  std::vector<TestSequence> paged = {{1, 900}, {1, 17}, {1, 1}};
  for (const TestSequence& s : Prompts()) paged.push_back(s);
  Check({.device = Best(), .dtype = at::kBFloat16, .heads = 8, .kv_heads = 2, .head_dim = 128}, paged,
        {{21, 21}, {300, 300}});
}

TEST_F(PromptAttention, GivesTheSameBitsEveryTime) {
  for (const int64_t head_dim : {64, 128}) {
    const TestShape shape{
        .device = Best(), .dtype = at::kBFloat16, .heads = 32, .kv_heads = 8, .head_dim = head_dim, .window = 700};
    const TestStep step(shape, Prompts(), {});
    const auto backend = Backend(step);
    step.Plan(*backend);
    const at::Tensor first = step.Launch(*backend).values;
    EXPECT_FALSE(first.isnan().any().item<bool>());
    for (int i = 0; i < 30; ++i) EXPECT_TRUE(at::equal(step.Launch(*backend).values, first)) << head_dim << ' ' << i;
  }
}

}  // namespace
}  // namespace automodeld
