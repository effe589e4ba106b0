// What flash_attention_2 promises beyond what every version does: many sequences, any group, caps, sinks, graphs.
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "kernels/attention.h"
#include "kernels/device_graph.h"
#include "kernels/fp8.h"
#include "tests/kernels/attention_fixture.h"
#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

// As in attention_test.cc: a few units in the last place of values up to about 4.
double Tolerance(at::ScalarType dtype) {
  if (dtype == at::kFloat) return 2e-5;
  return dtype == at::kHalf ? 4e-3 : 3e-2;
}

// On the device with the most to offer: flash_attention_2 there, in the types that it has.
std::vector<at::ScalarType> Types() { return {at::kBFloat16, at::kHalf, at::kFloat}; }

void Check(const TestShape& shape, const std::vector<TestSequence>& paged, const std::vector<TestSequence>& ragged) {
  const TestStep step(shape, paged, ragged);
  auto backend = MakeAttention("flash_attention_2", step.needs(), {});
  if (!backend.ok()) {
    EXPECT_TRUE(shape.device.is_cpu()) << backend.status();
    return;
  }
  const at::Tensor difference = (step.Run(**backend) - step.Expected()).abs();
  EXPECT_LE(difference.max().item<double>(), Tolerance(shape.dtype)) << Describe(shape) << ", " << paged.size();
}

std::vector<TestSequence> Decode(int64_t sequences) {
  std::vector<TestSequence> all;
  for (int64_t i = 0; i < sequences; ++i) all.push_back({1, 1 + i * i * 7919 % (i % 9 == 0 ? 5000 : 300)});
  return all;
}

TEST(FlashAttention, DecodesAnyNumberOfSequencesOfAnyLength) {
  for (const int64_t sequences : {1, 2, 3, 5, 8, 17, 33, 70}) {
    for (const at::ScalarType kv : {at::kBFloat16, at::kFloat8_e4m3fn}) {
      const TestShape shape{
          .device = Best(), .dtype = at::kBFloat16, .heads = 8, .kv_heads = 2, .head_dim = 128, .kv_dtype = kv};
      Check(shape, Decode(sequences), {});
    }
  }
  for (const int64_t context : {15, 16, 17, 63, 64, 65, 127, 129, 1024, 4097, 5000}) {
    Check({.device = Best(), .dtype = at::kHalf, .heads = 4, .kv_heads = 1, .head_dim = 64}, {{1, context}}, {});
  }
}

class FlashAttentionOfHeads : public testing::TestWithParam<int64_t> {};  // their size

TEST_P(FlashAttentionOfHeads, TakesEveryGroup) {
  for (const at::ScalarType dtype : Types()) {
    for (const int64_t group : {1, 2, 3, 4, 5, 6, 7, 8, 17}) {
      TestShape shape{.device = Best(), .dtype = dtype, .heads = 2 * group, .kv_heads = 2, .head_dim = GetParam()};
      const std::vector<TestSequence> paged = {{1, 140}, {1, 7}, {3, 50}, {90, 170}};
      Check(shape, paged, {{21, 21}});
      shape.kv_dtype = at::kFloat8_e4m3fn;
      if (group % 3 == 1) Check(shape, paged, {});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Of, FlashAttentionOfHeads, testing::Values(8, 32, 40, 64, 72, 80, 96, 104, 128, 192, 256),
                         testing::PrintToStringParamName());

// Long contexts of few sequences: several clusters of blocks share a sequence's keys, and the last one adds up.
TEST(FlashAttention, SplitsTheKeysOfAnyShape) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    for (const auto& [group, head_dim] :
         {std::pair(1, 40), {1, 128}, {1, 256}, {3, 40}, {3, 128}, {3, 256}, {17, 40}, {17, 128}, {17, 256}}) {
      TestShape shape{.device = Best(), .dtype = dtype, .heads = 2 * group, .kv_heads = 2, .head_dim = head_dim};
      Check(shape, {{1, 4000}}, {});
      shape.window = 1500;
      shape.sinks = true;
      Check(shape, {{1, 4000}, {1, 9}, {1, 2100}}, {});
      shape.kv_dtype = at::kFloat8_e4m3fn;
      shape.v_scale = 0.4;
      Check(shape, {{1, 700}, {1, 1}, {1, 4000}, {1, 300}, {1, 64}}, {{40, 40}});
    }
  }
}

// So many that blocks take turns on any device; a cache of the queries' type, of bytes, and one that is read one by
// one.
TEST(FlashAttention, DecodesManySequencesOfEveryHeadSize) {
  std::vector<TestSequence> many;
  for (int64_t i = 0; i < 40; ++i) many.push_back({1, 1 + i * i * 7919 % 100});
  many.push_back({1, 500});
  for (const at::ScalarType dtype : Types()) {
    for (const auto& [head_dim, window] :
         {std::pair(24, 0), std::pair(32, 40), std::pair(64, 0), std::pair(80, 60), std::pair(96, 0), std::pair(128, 0),
          std::pair(128, 70), std::pair(256, 0)}) {
      for (const at::ScalarType kv : {dtype, at::kFloat8_e4m3fn, at::kFloat}) {
        const TestShape shape{.device = Best(),
                              .dtype = dtype,
                              .heads = 24,
                              .kv_heads = 8,
                              .head_dim = head_dim,
                              .window = window,
                              .kv_dtype = kv};
        if (kv != at::kFloat || head_dim == 64) Check(shape, many, {});
      }
    }
  }
}

TEST(FlashAttention, ReadsBytesWithScalesCapsWindowsAndSinks) {
  for (const at::ScalarType dtype : Types()) {
    for (const int64_t head_dim : {16, 48, 64, 80, 96, 112, 128, 192, 256}) {
      for (const int64_t group : {1, 5, 20}) {
        TestShape shape{.device = Best(),
                        .dtype = dtype,
                        .heads = 2 * group,
                        .kv_heads = 2,
                        .head_dim = head_dim,
                        .page_size = 32,
                        .kv_dtype = at::kFloat8_e4m3fn,
                        .k_scale = 0.02,
                        .v_scale = 0.01};
        const std::vector<TestSequence> paged = {{1, 300}, {1, 31}, {1, 33}, {40, 90}, {70, 170}};
        Check(shape, paged, {});
        shape.window = 47;
        shape.soft_cap = 2.0;
        shape.sinks = true;
        Check(shape, paged, {});
      }
    }
  }
}

TEST(FlashAttention, QueriesBeyondFloat16AreAsItsLargestOverBytes) {
  if (Best().is_cpu()) GTEST_SKIP() << "no GPU";
  const TestShape shape{.device = Best(), .dtype = at::kBFloat16, .head_dim = 128, .kv_dtype = at::kFloat8_e4m3fn};
  TestStep step(shape, {{1, 1}, {1, 300}, {40, 90}}, {});
  const auto backend = std::move(*MakeAttention("flash_attention_2", step.needs(), {}));
  const at::Tensor most = step.q.sign() * 65536;  // the next below it in bfloat16 is 65280
  step.q = step.q.sign() * 1e30;
  const at::Tensor got = step.Run(*backend);
  EXPECT_TRUE(got.isfinite().all().item<bool>());
  step.q = most;
  EXPECT_TRUE(at::equal(got, step.Run(*backend)));
  step.q = step.q * std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(step.Run(*backend).isnan().all().item<bool>());
}

// 2048 rows fill tiles of every kind; keys lie far apart.
TEST(FlashAttention, LongPromptsChunksAndWindows) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    for (const auto& [window, head_dim] : {std::pair(0, 64), {0, 128}, {0, 256}, {200, 64}, {200, 128}, {200, 256}}) {
      TestShape shape{
          .device = Best(), .dtype = dtype, .heads = 6, .kv_heads = 2, .head_dim = head_dim, .window = window};
      Check(shape, {{1500, 1500}}, {});
      Check(shape, {{1, 900}, {700, 1900}, {300, 300}}, {{500, 500}});
      Check(shape, {{1, 900}, {9, 1900}, {30, 100}, {20, 3000}}, {});
      shape.kv_dtype = at::kFloat8_e4m3fn;
      Check(shape, {{1500, 1500}}, {});
    }
  }
}

TEST(FlashAttention, SmallRaggedSequencesOfEncoders) {
  std::vector<TestSequence> ragged;
  for (int64_t i = 0; i < 200; ++i) ragged.push_back({1 + i * 13 % 40, 0});
  for (const at::ScalarType dtype : Types()) {
    Check({.device = Best(), .dtype = dtype, .heads = 12, .kv_heads = 12, .head_dim = 32, .causal = false}, {}, ragged);
  }
}

TEST(FlashAttention, CapsAndSinksAreAsEagerDefinesThem) {
  for (const at::ScalarType dtype : Types()) {
    for (const auto& [cap, sinks] : {std::pair(0.7, false), std::pair(0.0, true), std::pair(50.0, true)}) {
      for (const at::ScalarType kv : {dtype, at::kFloat8_e4m3fn}) {
        const TestShape shape{.device = Best(),
                              .dtype = dtype,
                              .heads = 6,
                              .window = 100,
                              .kv_dtype = kv,
                              .k_scale = 0.3,
                              .soft_cap = cap,
                              .sinks = sinks};
        Check(shape, {{1, 400}, {1, 3}, {50, 90}, {400, 400}}, {{33, 33}});
        Check(shape, {{1, 4000}}, {});
      }
    }
  }
}

TEST(FlashAttention, QuantisesItsRowsAsQuantizeRowsDoes) {
  for (const at::ScalarType dtype : Types()) {
    for (const int64_t sequences : {1, 3, 40}) {
      for (const int64_t heads : {6, 32, 128}) {
        const TestShape shape{.device = Best(), .dtype = dtype, .heads = heads, .kv_heads = 2, .head_dim = 96};
        const TestStep step(shape, Decode(sequences), {});
        auto backend = MakeAttention("flash_attention_2", step.needs(), {});
        ASSERT_TRUE(backend.ok()) << backend.status();
        step.Plan(**backend);
        const LinearInput expected = QuantizeRows(step.Launch(**backend).values);
        const LinearInput got = step.Launch(**backend, /*quantize=*/true);
        EXPECT_TRUE(at::equal(got.values.view(at::kByte), expected.values.view(at::kByte))) << Describe(shape);
        EXPECT_TRUE(at::equal(got.scale, expected.scale)) << Describe(shape);
        EXPECT_EQ(got.dtype, dtype);
      }
    }
  }
}

TEST(FlashAttention, ARecordedStepServesOtherLengths) {
  if (Best().is_cpu()) GTEST_SKIP() << "no GPU";
  const c10::impl::VirtualGuardImpl device(Best().type());
  for (const int64_t sequences : {1, 6, 40, 150}) {
    const TestShape shape{.device = Best(),
                          .dtype = at::kBFloat16,
                          .heads = 8,
                          .kv_heads = 2,
                          .head_dim = 128,
                          .kv_dtype = sequences == 6 ? at::kFloat8_e4m3fn : at::kBFloat16};
    TestStep step(shape, Decode(sequences), {});
    const auto backend = std::move(*MakeAttention("flash_attention_2", step.needs(), {}));
    const auto eager = std::move(*MakeAttention("eager", step.needs(), {}));
    device.synchronizeDevice(Best().index());
    const c10::StreamGuard on_stream(device.getStreamFromGlobalPool(Best(), false));
    backend->Reserve({.max_sequences = sequences, .max_pages = 320, .max_tokens = 64});
    ASSERT_TRUE(backend->can_be_captured());
    step.Plan(*backend);
    step.Launch(*backend);  // loads the kernels
    const auto graphs = MakeDeviceGraphs(Best());
    LinearInput out = at::Tensor();
    const auto graph = graphs->Record([&] { out = step.Launch(*backend); });
    for (const int64_t seed : {1, 2, 3}) {
      std::vector<int64_t> contexts;
      for (const TestSequence& s : Decode(sequences)) contexts.push_back(1 + s.context * 37 * seed % s.context);
      step.SetContexts(contexts);
      step.Plan(*backend);
      graph->Launch();
      const at::Tensor got = out.values.to(at::kCPU).to(at::kFloat);
      EXPECT_LE((got - step.Run(*eager)).abs().max().item<double>(), Tolerance(at::kBFloat16)) << seed;
    }
  }
}

// Three layers share the counters by which the last block is found, and each leaves them as it found them, however
// many parts the keys had before: or else rows would be missing, or made of what an earlier replay wrote.
class FlashAttentionReplays : public testing::TestWithParam<size_t> {};  // so many sequences

TEST_P(FlashAttentionReplays, GiveTheSameBitsWhateverRanBefore) {
  if (Best().is_cpu()) GTEST_SKIP() << "no GPU";
  const c10::impl::VirtualGuardImpl device(Best().type());
  const std::vector<int64_t> longest = {5000, 1500, 5000, 300, 4000, 900, 64, 2500, 130};
  const size_t sequences = GetParam();
  const TestShape shape{.device = Best(), .dtype = at::kBFloat16, .heads = 32, .kv_heads = 8, .head_dim = 128};
  std::vector<TestSequence> all;
  for (size_t i = 0; i < sequences; ++i) all.push_back({1, longest[i]});
  TestStep step(shape, all, {});
  const auto backend = std::move(*MakeAttention("flash_attention_2", step.needs(), {}));
  const auto eager = std::move(*MakeAttention("eager", step.needs(), {}));
  device.synchronizeDevice(Best().index());
  const c10::StreamGuard on_stream(device.getStreamFromGlobalPool(Best(), false));
  backend->Reserve({.max_sequences = static_cast<int64_t>(sequences), .max_pages = 320, .max_tokens = 64});
  step.Plan(*backend);
  step.Launch(*backend);  // loads the kernels
  const auto graphs = MakeDeviceGraphs(Best());
  std::vector<at::Tensor> layers(3);
  const auto graph = graphs->Record([&] {
    for (at::Tensor& layer : layers) layer = step.Launch(*backend).values;
  });
  for (const double share : {1.0, 0.01, 0.3, 0.0, 0.05, 1.0, 0.2}) {
    std::vector<int64_t> contexts(sequences);
    std::ranges::transform(all, contexts.begin(), [share](const TestSequence& s) {
      return 1 + static_cast<int64_t>(share * static_cast<double>(s.context - 1));
    });
    step.SetContexts(contexts);
    step.Plan(*backend);
    for (int replay = 0; replay < 20; ++replay) graph->Launch();
    const at::Tensor got = layers[0].clone(), launched = step.Launch(*backend).values;
    for (const at::Tensor& layer : layers) EXPECT_TRUE(at::equal(layer, got)) << sequences << ' ' << share;
    EXPECT_TRUE(at::equal(launched, got)) << sequences << ' ' << share;
    const at::Tensor difference = got.to(at::kCPU).to(at::kFloat) - step.Run(*eager);
    EXPECT_LE(difference.abs().max().item<double>(), Tolerance(at::kBFloat16)) << sequences << ' ' << share;
  }
}

INSTANTIATE_TEST_SUITE_P(Of, FlashAttentionReplays, testing::Values(1, 2, 3, 5, 9), testing::PrintToStringParamName());

// Records a step for as many rows as it was made with, and launches it for each of these lists of sequences.
void ExpectRecordedServes(TestStep step, const std::vector<std::vector<TestSequence>>& lists) {
  const c10::impl::VirtualGuardImpl device(Best().type());
  const auto backend = std::move(*MakeAttention("flash_attention_2", step.needs(), {}));
  const auto eager = std::move(*MakeAttention("eager", step.needs(), {}));
  device.synchronizeDevice(Best().index());
  const c10::StreamGuard on_stream(device.getStreamFromGlobalPool(Best(), false));
  backend->Reserve({.max_sequences = 32, .max_pages = 125, .max_tokens = 512});
  step.RecordAs({});
  step.Plan(*backend);
  step.Launch(*backend);  // loads the kernels
  const auto graphs = MakeDeviceGraphs(Best());
  LinearInput out = at::Tensor();
  const auto graph = graphs->Record([&] { out = step.Launch(*backend); });
  for (const std::vector<TestSequence>& sequences : lists) {
    step.RecordAs(sequences);
    step.Plan(*backend);
    graph->Launch();
    int64_t used = 0;
    for (const TestSequence& s : sequences) used += s.rows;
    const at::Tensor difference = out.values.to(at::kCPU).to(at::kFloat) - step.Run(*eager);
    EXPECT_LE(difference.narrow(0, 0, used).abs().max().item<double>(), Tolerance(step.q.scalar_type()))
        << step.q.sizes();
  }
  step.RecordAs(std::vector<TestSequence>(kMostRecordedPrompts + 1, {1, 1}));
  EXPECT_THROW(step.Plan(*backend), c10::Error);
  const int64_t rows = step.q.size(0);
  step.RecordAs({{rows, rows}, {1, 1}});
  EXPECT_THROW(step.Plan(*backend), c10::Error);
}

TEST(FlashAttention, RecordedPromptsServeOtherPrompts) {
  if (Best().is_cpu()) GTEST_SKIP() << "no GPU";
  for (const auto& [rows, group, kv_heads, head_dim] :
       {std::tuple(64, 1, 2, 64), {192, 4, 2, 64}, {512, 7, 2, 64}, {512, 4, 8, 128}, {500, 5, 8, 64}}) {
    const TestShape shape{.device = Best(),
                          .dtype = at::kBFloat16,
                          .heads = kv_heads * group,
                          .kv_heads = kv_heads,
                          .head_dim = head_dim};
    const std::vector<TestSequence> small(kMostRecordedPrompts, {3, 70});
    ExpectRecordedServes(TestStep(shape, {{rows, 2000}}, {}), {{{rows, rows}}, {{5, 5}, {1, 1999}, {33, 400}}, small});
  }
}

TEST(FlashAttention, RecordedInputsOfAnEncoderServeOthers) {
  if (Best().is_cpu()) GTEST_SKIP() << "no GPU";
  for (const auto dtype : {at::kFloat, at::kHalf}) {
    for (const auto& [rows, heads, head_dim] : {std::tuple(64, 12, 32), {512, 12, 64}, {256, 16, 128}, {500, 3, 80}}) {
      const TestShape shape{
          .device = Best(), .dtype = dtype, .heads = heads, .kv_heads = heads, .head_dim = head_dim, .causal = false};
      const std::vector<TestSequence> small(kMostRecordedPrompts, {3, 3});
      ExpectRecordedServes(TestStep(shape, {}, {{rows, rows}}), {{{rows, rows}}, {{5, 5}, {1, 1}, {33, 33}}, small});
    }
  }
}

TEST(FlashAttention, RefusesWhatItCannotDo) {
  const AttentionNeeds capped{.num_heads = 2, .num_kv_heads = 1, .head_dim = 64, .soft_cap = true};
  EXPECT_EQ(MakeAttention("flash_attention_2", capped, {}).status().message(), "flash_attention_2:cpu has no soft cap");
  const AttentionNeeds sinks{.num_heads = 2, .num_kv_heads = 1, .head_dim = 64, .sinks = true};
  EXPECT_EQ(MakeAttention("sdpa", sinks, {}).status().message(), "sdpa has no sinks");
  if (Best().is_cpu()) return;
  const AttentionNeeds odd{
      .num_heads = 2, .num_kv_heads = 1, .head_dim = 17, .dtype = at::kHalf, .device = at::Device(at::kCUDA, 0)};
  EXPECT_EQ(MakeAttention("flash_attention_2", odd, {}).status().message(),
            "flash_attention_2 takes heads of 8 to 256 in eights on CUDA, not of 17");
}

}  // namespace
}  // namespace automodeld
