#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/limits_torch.h"

namespace automodeld {
namespace {

using testing::HasSubstr;

constexpr int64_t kPageBytes = 2 * 2 * 16 * 2 * 8 * 4;  // layers, K and V, tokens, kv heads, head size, float32

ModelShape Decoder() {
  ModelShape shape;
  shape.num_layers = 2;
  shape.num_heads = 4;
  shape.num_kv_heads = 2;
  shape.head_dim = 8;
  shape.max_positions = 1000;
  return shape;
}

ModelShape Encoder() {
  ModelShape shape = Decoder();
  shape.causal = false;
  shape.max_positions = 4000;
  return shape;
}

absl::StatusOr<PlannedLimits> Plan(const EngineConfig& engine, const MemoryNeeds& needs) {
  return PlanMemory(Decoder(), engine, PlanLengths(Decoder(), engine, 0).value(), needs, at::kFloat, /*is_cpu=*/true);
}

TEST(Limits, DefaultsFollowTheModel) {
  const auto limits = PlanLengths(Decoder(), {}, 77);
  ASSERT_TRUE(limits.ok());
  EXPECT_EQ(limits->max_model_len, 1000);  // a causal model's tokenizer does not bound it
  EXPECT_EQ(limits->max_num_seqs, 256);
  EXPECT_EQ(limits->max_num_batched_tokens, 2048);
}

TEST(Limits, AnEncodersStepHoldsItsLongestInput) {
  const auto limits = PlanLengths(Encoder(), {}, 0);
  ASSERT_TRUE(limits.ok());
  EXPECT_EQ(limits->max_model_len, 4000);
  EXPECT_EQ(limits->max_num_batched_tokens, 4000);
  EXPECT_EQ(PlanLengths(Encoder(), {}, 512)->max_model_len, 512);
  EXPECT_EQ(PlanLengths(Encoder(), {.max_model_len = 600}, 512)->max_model_len, 600);
  EXPECT_EQ(PlanLengths(Encoder(), {.max_num_batched_tokens = 3999}, 0).status().message(),
            "engine.max_num_batched_tokens: 3999 is outside 4000..1048576");
}

TEST(Limits, ValuesOutsideTheirRangeAreRefused) {
  EXPECT_EQ(PlanLengths(Decoder(), {.max_model_len = 1001}, 0).status().message(),
            "engine.max_model_len: 1001 is outside 1..1000");
  EXPECT_EQ(PlanLengths(Decoder(), {.max_model_len = -1}, 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PlanLengths(Decoder(), {.max_num_seqs = 4097}, 0).status().message(),
            "engine.max_num_seqs: 4097 is outside 1..4096");
  EXPECT_FALSE(PlanLengths(Decoder(), {.max_num_batched_tokens = 1048577}, 0).ok());
  EXPECT_FALSE(Plan({.kv_cache_bytes = -1}, {.available = 1 << 30}).ok());
}

TEST(Limits, PagesHoldEverySequenceOrAQuarterOfTheMemoryThatIsLeft) {
  const auto all = Plan({.max_num_seqs = 2}, {.available = int64_t{1} << 40});
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->limits.num_pages, 2 * 63 + 1);
  EXPECT_EQ(all->kv_bytes, 127 * kPageBytes);
  const auto quarter = Plan({}, {.weights = 100, .available = 100 + 4 * 500 * kPageBytes});
  ASSERT_TRUE(quarter.ok()) << quarter.status();
  EXPECT_EQ(quarter->limits.num_pages, 500);
}

TEST(Limits, TheDefaultCacheHoldsOneSequenceEvenIfThatIsMoreThanAQuarter) {
  const auto one = Plan({}, {.available = 65 * kPageBytes});
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->limits.num_pages, 64);
  const absl::Status status = Plan({}, {.available = 64 * kPageBytes - 1}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("a lower engine.max_model_len"));
}

TEST(Limits, AnEncodersStepsAreLongerOnAGpuAsFarAsMemoryGoes) {
  ModelShape shape = Encoder();
  shape.hidden_size = 384;
  const auto plan = [&](const EngineConfig& engine, int64_t available, bool is_cpu) {
    const RunnerLimits limits = PlanLengths(shape, engine, 512).value();
    return PlanMemory(shape, engine, limits, {.available = available}, at::kFloat, is_cpu).value().limits;
  };
  constexpr int64_t kPlenty = int64_t{1} << 40;
  EXPECT_EQ(plan({}, kPlenty, /*is_cpu=*/true).max_num_batched_tokens, 2048);
  EXPECT_EQ(plan({}, kPlenty, /*is_cpu=*/true).max_num_seqs, 256);
  EXPECT_EQ(plan({}, kPlenty, /*is_cpu=*/false).max_num_batched_tokens, 16384);
  EXPECT_EQ(plan({}, kPlenty, /*is_cpu=*/false).max_num_seqs, 4096);
  EXPECT_EQ(plan({.max_num_seqs = 7, .max_num_batched_tokens = 600}, kPlenty, false).max_num_batched_tokens, 600);
  EXPECT_EQ(plan({.max_num_seqs = 7}, kPlenty, false).max_num_seqs, 7);
  constexpr int64_t kHalf = 4 * 8192 * 16 * 384 * 4;  // its quarter holds the activations of 8192 tokens
  EXPECT_EQ(plan({}, kHalf, false).max_num_batched_tokens, 8192);
  EXPECT_EQ(plan({}, 1 << 20, false).max_num_batched_tokens, 2048);
}

// The same memory holds four times the tokens of float32.
TEST(Limits, PagesAreCountedInTheCachesOwnType) {
  const EngineConfig engine = {.kv_cache_bytes = 100 * kPageBytes};
  const RunnerLimits limits = PlanLengths(Decoder(), engine, 0).value();
  for (const auto& [dtype, pages] : {std::pair(at::kFloat, 100), std::pair(at::kHalf, 200),
                                     std::pair(at::kBFloat16, 200), std::pair(at::kFloat8_e4m3fn, 400)}) {
    const auto planned = PlanMemory(Decoder(), engine, limits, {.available = int64_t{1} << 40}, dtype, /*is_cpu=*/true);
    ASSERT_TRUE(planned.ok()) << planned.status();
    EXPECT_EQ(planned->limits.num_pages, pages) << dtype;
    EXPECT_EQ(planned->kv_bytes, 100 * kPageBytes) << dtype;
  }
}

// The rest of the cache takes memory when it is used.
TEST(Limits, ALoadNeedsItsWeightsItsTablesAndOneSequence) {
  const auto planned =
      Plan({.kv_cache_bytes = 200 * kPageBytes}, {.weights = 1000, .tables = 10, .available = int64_t{1} << 40});
  ASSERT_TRUE(planned.ok()) << planned.status();
  EXPECT_EQ(planned->needed_bytes, 1010 + 64 * kPageBytes);
}

TEST(Limits, AGivenCacheSizeIsKept) {
  const auto planned = Plan({.kv_cache_bytes = 100 * kPageBytes + 1}, {.available = int64_t{1} << 40});
  ASSERT_TRUE(planned.ok()) << planned.status();
  EXPECT_EQ(planned->limits.num_pages, 100);
}

TEST(Limits, OneSequenceMustFit) {
  EXPECT_TRUE(Plan({.kv_cache_bytes = 64 * kPageBytes}, {.available = 1 << 30}).ok());  // 63, and scratch
  const absl::Status status = Plan({.kv_cache_bytes = 64 * kPageBytes - 1}, {.available = 1 << 30}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("hold 992 tokens; one sequence of max_model_len 1000 needs " +
                                                       std::to_string(64 * kPageBytes)));
}

TEST(Limits, WeightsAndCacheMustFitIntoWhatThereIs) {
  const MemoryNeeds needs = {.weights = 1000, .tables = 10, .available = 1039};
  EXPECT_EQ(
      Plan({}, needs).status().message(),
      "the model needs 1040 bytes (weights 1000, tables 10, making tables 30, KV cache 0), but 1039 are available");
  const absl::Status status =
      Plan({.kv_cache_bytes = 64 * kPageBytes}, {.weights = 1, .available = 64 * kPageBytes}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace automodeld
