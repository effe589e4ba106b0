#include "kernels/attention.h"

#include <gtest/gtest.h>

#include "tests/kernels/attention_fixture.h"
#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

struct Version {
  std::string name;
  std::vector<SdpaBackend> order;
};

const std::vector<Version> kVersions = {{"eager", {}},
                                        {"sdpa", {}},
                                        {"sdpa", {SdpaBackend::kCudnn}},
                                        {"sdpa", {SdpaBackend::kFlash}},
                                        {"sdpa", {SdpaBackend::kEfficient}},
                                        {"sdpa", {SdpaBackend::kMath}},
                                        {"flash_attention_2", {}}};

// Float32 sums in another order; 16-bit types round the result, and libtorch's kernels also the probabilities: a few
// units in the last place of values up to about 4.
double Tolerance(at::ScalarType dtype) {
  if (dtype == at::kFloat) return 2e-5;
  return dtype == at::kHalf ? 4e-3 : 3e-2;
}

struct Mix {
  std::string name;
  std::vector<TestSequence> paged, ragged;
};

const std::vector<Mix> kMixes = {
    {"decode, equal lengths", {{1, 33}, {1, 33}, {1, 33}}, {}},
    {"decode, lengths apart", {{1, 1}, {1, 16}, {1, 300}, {1, 17}, {1, 2}}, {}},
    {"a whole prompt", {{37, 37}}, {}},
    {"a chunk of a prompt", {{20, 53}}, {}},
    {"decode and chunks", {{1, 40}, {1, 7}, {5, 64}, {48, 48}, {1, 9}}, {}},
    {"ragged", {}, {{1, 1}, {31, 31}, {70, 70}}},
    {"all at once", {{1, 18}, {9, 30}}, {{12, 12}}},
    {"equal prompts side by side", {{1, 18}, {9, 9}, {9, 9}, {9, 9}, {20, 53}, {20, 53}}, {{12, 12}, {12, 12}}},
    {"equal prompts apart",
     {{9, 9}, {20, 53}, {9, 9}, {9, 30}, {20, 53}},
     {{12, 12}, {5, 5}, {12, 12}, {5, 5}, {12, 12}}},
};

void CheckAgainstEager(const TestShape& shape, const Mix& mix) {
  const TestStep step(shape, mix.paged, mix.ragged);
  const at::Tensor expected = step.Expected();
  ASSERT_FALSE(expected.isnan().any().item<bool>());
  for (const Version& version : kVersions) {
    auto backend = MakeAttention(version.name, step.needs(), version.order);
    if (!backend.ok()) {
      EXPECT_EQ(backend.status().code(), absl::StatusCode::kUnimplemented);
      continue;
    }
    const double error = (step.Run(**backend) - expected).abs().max().item<double>();
    EXPECT_LE(error, Tolerance(shape.dtype)) << (*backend)->name() << ", " << mix.name << ", " << Describe(shape);
  }
}

TEST(Attention, EagerIsTheTextbooksFormula) {
  const TestShape shape{.heads = 6, .kv_heads = 3, .head_dim = 40};
  const TestStep step(shape, {}, {{29, 29}});
  const auto heads = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };
  const at::Tensor formula = at::scaled_dot_product_attention(heads(step.q), heads(step.k), heads(step.v), {}, 0.0,
                                                              /*is_causal=*/true, {}, /*enable_gqa=*/true);
  const at::Tensor difference = step.Expected() - formula.squeeze(0).transpose(0, 1).flatten(1);
  EXPECT_LE(difference.abs().max().item<double>(), 1e-6);
}

TEST(Attention, EveryVersionGivesWhatEagerGivesForEveryMix) {
  for (const at::Device device : Devices()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      for (const Mix& mix : kMixes) CheckAgainstEager({.device = device, .dtype = dtype}, mix);
    }
  }
}

TEST(Attention, EqualPromptsThatAreTooManyForACallOfSdpa) {
  const TestShape shape{.heads = 2, .kv_heads = 1, .head_dim = 16};
  CheckAgainstEager(shape, {"long prompts", {{300, 1800}, {300, 1800}, {300, 1800}}, {{800, 800}, {800, 800}, {3, 3}}});
}

TEST(Attention, EveryVersionTakesEveryHeadSizeAndGroup) {
  for (const at::Device device : Devices()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      for (const int64_t head_dim : {32, 64, 80, 96, 128}) {
        for (const int64_t group : {1, 2, 5, 7}) {
          const TestShape shape{
              .device = device, .dtype = dtype, .heads = 2 * group, .kv_heads = 2, .head_dim = head_dim};
          CheckAgainstEager(shape, kMixes[4]);
        }
      }
    }
  }
}

TEST(Attention, AWindowHidesWhatLiesBeforeIt) {
  for (const at::Device device : Devices()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      for (const int64_t window : {1, 3, 16, 17, 100}) {
        for (const Mix& mix : kMixes) CheckAgainstEager({.device = device, .dtype = dtype, .window = window}, mix);
      }
    }
  }
}

TEST(Attention, EncodersSeeBothWays) {
  for (const at::Device device : Devices()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      for (const int64_t head_dim : {32, 64}) {
        CheckAgainstEager({.device = device, .dtype = dtype, .head_dim = head_dim, .causal = false}, kMixes[5]);
      }
    }
  }
}

TEST(Attention, ACapBoundsScoresAndASinkTakesItsShare) {
  for (const at::Device device : Devices()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      for (const auto& [cap, sinks] : {std::pair(2.0, false), std::pair(0.0, true), std::pair(30.0, true)}) {
        for (const Mix& mix : kMixes) {
          CheckAgainstEager({.device = device, .dtype = dtype, .window = 17, .soft_cap = cap, .sinks = sinks}, mix);
        }
      }
    }
  }
}

// One row of two keys, by hand.
TEST(Attention, EagerCapsAndSinksAreTheFormulas) {
  const TestShape shape{.heads = 1, .kv_heads = 1, .head_dim = 16, .soft_cap = 1.5, .sinks = true};
  TestStep step(shape, {}, {{2, 2}});
  auto eager = MakeAttention("eager", step.needs(), {});
  const at::Tensor scores = at::matmul(step.k.select(1, 0), step.q[1][0]) / 4.0;
  const at::Tensor weights = at::cat({(scores / 1.5).tanh() * 1.5, at::tensor({-3.0F})}).softmax(0).narrow(0, 0, 2);
  const at::Tensor expected = at::matmul(weights, step.v.select(1, 0));
  EXPECT_LE((step.Run(**eager)[1] - expected).abs().max().item<double>(), 1e-6);
}

constexpr at::ScalarType kCacheTypes[] = {at::kFloat, at::kBFloat16, at::kHalf, at::kFloat8_e4m3fn};

// The reference reads the same rounded cache in float32, so that only the arithmetic differs: the tolerance stays that
// of the model's type. Values rounded to a type with fewer bits are exact in the model's.
TEST(Attention, EveryVersionReadsEveryTypeOfCacheInEveryTypeOfModel) {
  for (const at::Device device : Devices()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      for (const at::ScalarType kv_dtype : kCacheTypes) {
        for (const int64_t window : {0, 17}) {
          const TestShape shape{.device = device, .dtype = dtype, .heads = 6, .window = window, .kv_dtype = kv_dtype};
          for (const size_t mix : {1U, 4U, 6U}) CheckAgainstEager(shape, kMixes[mix]);
        }
      }
    }
  }
}

TEST(Attention, EveryVersionReadsAnFp8CacheOfEveryHeadSizeAndGroup) {
  for (const at::Device device : Devices()) {
    for (const int64_t head_dim : {17, 32, 80, 128}) {
      for (const int64_t group : {1, 5, 7}) {
        CheckAgainstEager(
            {.device = device, .heads = 2 * group, .kv_heads = 2, .head_dim = head_dim, .kv_dtype = at::kFloat8_e4m3fn},
            kMixes[4]);
      }
    }
  }
}

// Keys of 1/50 to 50 times their size would be a softmax over other scores, values over another range: the scales must
// reach both. Ragged rows read k and v, which have none.
TEST(Attention, ScalesOfAnFp8CacheAreTakenOutAgain) {
  for (const at::Device device : Devices()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      for (const auto& [k_scale, v_scale] : {std::pair(0.02, 1.0), std::pair(1.0, 0.013), std::pair(0.3, 0.007)}) {
        for (const Mix& mix : kMixes) {
          CheckAgainstEager({.device = device,
                             .dtype = dtype,
                             .window = 40,
                             .kv_dtype = at::kFloat8_e4m3fn,
                             .k_scale = k_scale,
                             .v_scale = v_scale},
                            mix);
        }
      }
    }
  }
}

// Scales of a checkpoint are passed whatever the cache's type.
TEST(Attention, ScalesOfACacheThatIsNotFp8AreNotLookedAt) {
  for (const Version& version : kVersions) {
    const TestStep plain({.kv_dtype = at::kBFloat16}, kMixes[4].paged, {});
    const TestStep scaled({.kv_dtype = at::kBFloat16, .k_scale = 0.5, .v_scale = 3.0}, kMixes[4].paged, {});
    auto backend = MakeAttention(version.name, plain.needs(), version.order);
    if (!backend.ok()) continue;
    EXPECT_TRUE(at::equal(plain.Run(**backend), scaled.Run(**backend))) << (*backend)->name();
  }
}

TEST(Attention, PageSizeAndOddHeadSizeDoNotMatter) {
  for (const int64_t page_size : {1, 8, 32}) {
    CheckAgainstEager({.heads = 3, .kv_heads = 3, .head_dim = 17, .page_size = page_size}, kMixes[4]);
  }
}

TEST(Attention, FlashOnTheCpuGivesTheSameAtEveryInstructionLevel) {
  for (const SimdLevel level : SimdLevels()) {
    const ScopedSimdLevel scoped(level);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      for (const Mix& mix : kMixes) {
        for (const at::ScalarType kv_dtype : {dtype, at::kFloat8_e4m3fn}) {
          const TestShape shape{.dtype = dtype, .heads = 6, .kv_heads = 2, .head_dim = 80, .kv_dtype = kv_dtype};
          const TestStep step(shape, mix.paged, mix.ragged);
          auto backend = MakeAttention("flash_attention_2", step.needs(), {});
          const double error = (step.Run(**backend) - step.Expected()).abs().max().item<double>();
          EXPECT_LE(error, Tolerance(dtype)) << mix.name << ", level " << static_cast<int>(level);
        }
      }
    }
  }
}

// The last rows of a prompt, computed as a chunk over a cache that holds the earlier ones, are those of the whole.
TEST(Attention, AChunkGivesWhatTheWholePromptGives) {
  for (const Version& version : kVersions) {
    const TestStep whole({}, {{61, 61}}, {}), chunk({}, {{20, 61}}, {});
    auto backend = MakeAttention(version.name, whole.needs(), version.order);
    if (!backend.ok()) continue;
    TestStep same = chunk;
    same.q = whole.q.narrow(0, 41, 20);
    same.UseCacheOf(whole, 0);
    const at::Tensor difference = same.Run(**backend) - whole.Run(**backend).narrow(0, 41, 20);
    EXPECT_LE(difference.abs().max().item<double>(), 2e-5) << (*backend)->name();
  }
}

// To the bit, so that a sequence that is computed again, or in other chunks, rounds no key of a later layer otherwise.
TEST(Attention, FlashOnTheCpuGivesARowTheSameBitsInEveryChunk) {
  for (const SimdLevel level : SimdLevels()) {
    const ScopedSimdLevel scoped(level);
    for (const at::ScalarType kv_dtype : kCacheTypes) {
      for (const auto& [group, head_dim, window] :
           {std::tuple(1, 64, 0), std::tuple(3, 40, 0), std::tuple(2, 128, 45)}) {
        const TestShape shape{
            .heads = 2 * group, .head_dim = head_dim, .window = window, .kv_dtype = kv_dtype, .k_scale = 0.5};
        const TestStep whole(shape, {{150, 150}}, {});
        auto backend = MakeAttention("flash_attention_2", whole.needs(), {});
        const at::Tensor expected = whole.Run(**backend);
        for (const auto& [rows, context] :
             {std::pair(1, 150), std::pair(1, 34), std::pair(2, 150), std::pair(9, 100)}) {
          TestStep chunk(shape, {{rows, context}, {1, 20}}, {});  // beside another sequence
          chunk.q.narrow(0, 0, rows).copy_(whole.q.narrow(0, context - rows, rows));
          chunk.UseCacheOf(whole, /*sequence=*/0);
          EXPECT_TRUE(at::equal(chunk.Run(**backend).narrow(0, 0, rows), expected.narrow(0, context - rows, rows)))
              << rows << " rows of " << context << ", " << Describe(shape) << ", level " << static_cast<int>(level);
        }
      }
    }
  }
}

// A ragged prompt reads k and v where a paged one reads the cache.
TEST(Attention, RaggedGivesWhatPagedGives) {
  for (const Version& version : kVersions) {
    TestStep paged({}, {{45, 45}}, {});
    auto backend = MakeAttention(version.name, paged.needs(), version.order);
    if (!backend.ok()) continue;
    TestStep ragged({}, {}, {{45, 45}});
    ragged.q = paged.q;
    ragged.k = paged.CachedKeys(0);
    ragged.v = paged.CachedValues(0);
    const at::Tensor difference = ragged.Run(**backend) - paged.Run(**backend);
    EXPECT_LE(difference.abs().max().item<double>(), 2e-5) << (*backend)->name();
  }
}

TEST(Attention, TheOrderOfPagesDoesNotMatter) {
  for (const Version& version : kVersions) {
    const TestStep one({}, kMixes[4].paged, {}, /*page_seed=*/1);
    const TestStep other({}, kMixes[4].paged, {}, /*page_seed=*/2);
    auto backend = MakeAttention(version.name, one.needs(), version.order);
    if (!backend.ok()) continue;
    EXPECT_TRUE(at::equal(one.Run(**backend), other.Run(**backend))) << (*backend)->name();
  }
}

TEST(Attention, OneBackendServesStepsOfAnyShapeInTurn) {
  for (const Version& version : kVersions) {
    auto backend = MakeAttention(version.name, TestStep({}, kMixes[0].paged, {}).needs(), version.order);
    if (!backend.ok()) continue;
    for (const Mix& mix : kMixes) {
      const TestStep step({}, mix.paged, mix.ragged);
      EXPECT_LE((step.Run(**backend) - step.Expected()).abs().max().item<double>(), 2e-5) << mix.name;
    }
  }
}

TEST(Attention, AnUnknownNameIsRefusedWithTheKnownOnes) {
  const auto backend = MakeAttention("flash_attention_4", {.num_heads = 1, .num_kv_heads = 1, .head_dim = 8}, {});
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(backend.status().message(), "attention 'flash_attention_4' is none of flash_attention_2, sdpa, eager");
}

TEST(Attention, SdpaTakesTheFirstMethodThatWorksHere) {
  const AttentionNeeds needs{.num_heads = 2, .num_kv_heads = 1, .head_dim = 64};
  const std::vector<SdpaBackend> order = {SdpaBackend::kCudnn, SdpaBackend::kFlash, SdpaBackend::kMath};
  EXPECT_EQ((*MakeAttention("sdpa", needs, order))->name(), "sdpa:FLASH_ATTENTION");
  EXPECT_EQ((*MakeAttention("sdpa", needs, {}))->name(), "sdpa");
  const auto none = MakeAttention("sdpa", needs, std::vector{SdpaBackend::kCudnn, SdpaBackend::kEfficient});
  EXPECT_EQ(none.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(none.status().message(),
            "sdpa: no method does head_dim 64 in Float on cpu: sdpa:CUDNN_ATTENTION: runs on CUDA only; "
            "sdpa:EFFICIENT_ATTENTION: runs on CUDA only");
}

}  // namespace
}  // namespace automodeld
