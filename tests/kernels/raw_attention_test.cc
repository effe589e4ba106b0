// Decode attention over raw rows gives what qkv_rope_write_kv and attention give one after the other: the same bits in
// the cache, the same rows. Slots that no earlier step has written hold NaN, so that a newest key that is read from the
// cache instead of being made shows.
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include "kernels/device_graph.h"
#include "tests/kernels/devices.h"
#include "tests/kernels/raw_attention_fixture.h"

namespace automodeld {
namespace {

std::unique_ptr<AttentionBackend> Flash(const RawStep& step) {
  return std::move(*MakeAttention("flash_attention_2", step.needs(), {}));
}

std::vector<at::ScalarType> Types() { return {at::kBFloat16, at::kHalf}; }

// Both ways multiply the same bits in the same order, but are compiled apart, and may fuse a product and a sum where
// the other does not: a unit in the last place of values up to about 8, and of e4m3 a step of a row's largest.
void ExpectSame(const LinearInput& got, const LinearInput& expected, const std::string& what) {
  const auto wide = [](const LinearInput& x) {
    const at::Tensor values = x.values.to(at::kCPU).to(at::kFloat);
    return x.quantized() ? values * x.scale.to(at::kCPU) : values;
  };
  const at::Tensor mine = wide(got), reference = wide(expected);
  ASSERT_EQ(mine.sizes(), reference.sizes()) << what;
  EXPECT_EQ(got.quantized(), expected.quantized()) << what;
  EXPECT_FALSE(reference.isnan().any().item<bool>()) << what;
  const double tolerance = got.quantized() ? 0.5 : got.dtype == at::kHalf ? 4e-3 : 3.2e-2;
  EXPECT_LE((mine - reference).abs().max().item<double>(), tolerance) << what;
}

void CheckPlanned(RawStep& step, AttentionBackend& backend, const std::string& what) {
  step.Plan(backend);
  const std::optional<LinearInput> got = step.RunRaw(backend);
  ASSERT_TRUE(got.has_value()) << what;
  ExpectSame(*got, step.RunTwo(backend), what);
  EXPECT_TRUE(step.CachesAreEqual()) << what;
}

void Check(RawShape shape, const std::vector<int64_t>& contexts) {
  shape.device = Best();
  RawStep step(shape, contexts);
  CheckPlanned(step, *Flash(step), Describe(shape) + ", " + std::to_string(contexts.size()) + " sequences");
}

std::vector<int64_t> Contexts(int64_t sequences) {
  std::vector<int64_t> contexts;
  for (int64_t i = 0; i < sequences; ++i) contexts.push_back(1 + i * i * 7919 % (i % 9 == 4 ? 3000 : 300));
  return contexts;
}

// Nothing is done where it cannot be done, and so the step goes the other way.
void ExpectRefused(RawStep& step, AttentionBackend& backend, const std::string& what) {
  step.Plan(backend);
  EXPECT_FALSE(step.RunRaw(backend).has_value()) << what;
  EXPECT_TRUE(step.CachesAreEqual()) << what;
}

TEST(RawAttention, OnlyFlashAttentionOnCudaTakesRawRows) {
  for (const at::Device device : Devices()) {
    for (const std::string name : {"eager", "sdpa", "flash_attention_2"}) {
      if (name == "flash_attention_2" && device.is_cuda()) continue;
      RawStep step({.device = device, .dtype = at::kBFloat16}, {5, 40});
      const auto backend = std::move(*MakeAttention(name, step.needs(), {}));
      ExpectRefused(step, *backend, name);
      EXPECT_FALSE(backend->TakesRaw("cpu", at::kBFloat16)) << name;
      EXPECT_FALSE(backend->TakesRaw("cuda", at::kBFloat16)) << name;
    }
  }
}

class RawAttentionOnGpu : public GpuTest {};

TEST_F(RawAttentionOnGpu, RespectsWhichVersionOfTheOperationIsInForce) {
  RawStep step({.device = Best()}, {5, 40});
  const auto backend = Flash(step);
  step.Plan(*backend);
  for (const std::string version : {"eager", "cpu", "mycorp::qkv_rope_write_kv", ""}) {
    EXPECT_FALSE(step.RunRaw(*backend, version).has_value()) << version;
    EXPECT_FALSE(backend->TakesRaw(version, at::kBFloat16)) << version;
  }
  EXPECT_TRUE(step.CachesAreEqual());
  EXPECT_TRUE(backend->TakesRaw("cuda", at::kBFloat16));
  EXPECT_TRUE(backend->TakesRaw("cuda", at::kFloat8_e4m3fn));
  EXPECT_TRUE(step.RunRaw(*backend, "cuda").has_value());
}

TEST_F(RawAttentionOnGpu, LeavesStepsWithOtherRowsToTheOperation) {
  RawStep step({.device = Best()}, {300, 5, 40});
  const auto backend = Flash(step);
  const AttentionStep decode = step.step;
  step.step.num_decode = 2;  // the last sequence is a prompt's last row
  ExpectRefused(step, *backend, "a row of a prompt");
  step.step.num_decode = 0;
  step.step.paged.resize(1);  // long enough to be sent as if its row were a sequence's only one
  ExpectRefused(step, *backend, "a row of a long prompt");
  step.step = decode;
  step.step.num_decode = 2;
  step.step.paged.resize(2);
  ExpectRefused(step, *backend, "a row of no sequence");
  step.step = decode;
  step.step.ragged.push_back({2, 1, 1, {}});
  ExpectRefused(step, *backend, "a ragged row");
  RawStep many({.device = Best(), .heads = 32, .kv_heads = 8}, Contexts(200));
  ExpectRefused(many, *Flash(many), "many sequences");
}

TEST_F(RawAttentionOnGpu, LeavesOtherTypesAndLayoutsToTheOperation) {
  for (const RawShape& shape : {RawShape{.kv_dtype = at::kFloat}, RawShape{.kv_dtype = at::kHalf},
                                RawShape{.head_dim = 40}, RawShape{.head_dim = 64, .rotary_dim = 24}}) {
    RawShape here = shape;
    here.device = Best();
    RawStep step(here, {300, 5, 40});
    ExpectRefused(step, *Flash(step), Describe(here));
  }
  RawStep step({.device = Best(), .q_norm = true}, {300, 5, 40});
  const auto backend = Flash(step);
  step.q_norm = at::cat({step.q_norm, step.q_norm}).narrow(0, 1, 128);  // off its border
  ExpectRefused(step, *backend, "a norm off its border");
}

TEST_F(RawAttentionOnGpu, EveryHeadSizeGroupAndCache) {
  for (const at::ScalarType dtype : Types()) {
    for (const int64_t head_dim : {16, 32, 48, 64, 80, 96, 112, 128, 192, 256}) {
      for (const int64_t group : {1, 4, 5, 7, 8, 14, 16, 20}) {
        for (const at::ScalarType kv : {dtype, at::kFloat8_e4m3fn}) {
          const RawShape shape{.dtype = dtype, .kv_dtype = kv, .heads = 2 * group, .kv_heads = 2, .head_dim = head_dim};
          Check(shape, {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 300});
        }
      }
    }
  }
}

// As many blocks as a step leaves room for share a sequence's keys; of contexts of 65, 129 and 4097 the newest key is
// one block's only one.
TEST_F(RawAttentionOnGpu, SplitsTheKeysOfAnyNumberOfSequences) {
  for (const at::ScalarType kv : {at::kBFloat16, at::kFloat8_e4m3fn}) {
    for (const int64_t context : {1, 2, 16, 17, 64, 65, 128, 129, 512, 513, 1025, 4096, 4097, 5000}) {
      Check({.kv_dtype = kv}, {context});
      Check({.kv_dtype = kv, .heads = 32, .kv_heads = 8, .k_norm = true}, {context, 1, 700});
    }
    for (const int64_t sequences : {1, 2, 3, 5, 8, 17}) {
      Check({.kv_dtype = kv, .heads = 32, .kv_heads = 8}, Contexts(sequences));
      Check({.kv_dtype = kv, .heads = 14, .kv_heads = 2, .head_dim = 64}, Contexts(sequences));
    }
  }
  for (const int64_t head_dim : {32, 80, 96, 256}) {
    Check({.heads = 24, .kv_heads = 8, .head_dim = head_dim, .q_norm = true, .k_norm = true}, Contexts(17));
    Check({.heads = 4, .kv_heads = 1, .head_dim = head_dim}, {3000});
  }
}

TEST_F(RawAttentionOnGpu, NormsAndPartsThatAreRotated) {
  for (const at::ScalarType dtype : Types()) {
    for (const int64_t head_dim : {32, 64, 80, 96, 128, 256}) {
      for (const int64_t rotary_dim : {int64_t{0}, int64_t{16}, head_dim / 32 * 16, head_dim}) {
        RawShape shape{.dtype = dtype, .heads = 10, .head_dim = head_dim, .rotary_dim = rotary_dim};
        for (const auto& [q_norm, k_norm] : {std::pair(true, true), {true, false}, {false, true}, {false, false}}) {
          shape.q_norm = q_norm;
          shape.k_norm = k_norm;
          Check(shape, {40, 1, 200});
        }
      }
    }
  }
}

TEST_F(RawAttentionOnGpu, WindowsCapsSinksAndPages) {
  for (const at::ScalarType dtype : Types()) {
    for (const at::ScalarType kv : {dtype, at::kFloat8_e4m3fn}) {
      for (const int64_t window : {1, 16, 47, 1500}) {
        Check({.dtype = dtype,
               .kv_dtype = kv,
               .heads = 6,
               .page_size = 32,
               .window = window,
               .sinks = true,
               .soft_cap = 2.0},
              {400, 1, 33, 48, 4000});
      }
    }
  }
}

TEST_F(RawAttentionOnGpu, QuantisesItsRows) {
  for (const int64_t sequences : {1, 17}) Check({.heads = 32, .kv_heads = 8, .quantize = true}, Contexts(sequences));
}

// One recorded launch serves other lengths, slots and rows, and steps of padding.
TEST_F(RawAttentionOnGpu, ARecordedStepServesOtherLengths) {
  const c10::impl::VirtualGuardImpl device(Best().type());
  for (const int64_t sequences : {1, 6, 40, 70}) {
    for (const at::ScalarType kv : {at::kBFloat16, at::kFloat8_e4m3fn}) {
      RawStep step({.device = Best(), .kv_dtype = kv, .q_norm = true, .k_norm = true}, Contexts(sequences));
      const auto backend = Flash(step);
      device.synchronizeDevice(Best().index());
      const c10::StreamGuard on_stream(device.getStreamFromGlobalPool(Best(), false));
      backend->Reserve({.max_sequences = sequences, .max_pages = 320, .max_tokens = 64});
      step.Plan(*backend);
      step.RunTwo(*backend);  // loads the kernels
      ASSERT_TRUE(step.RunRaw(*backend).has_value());
      const auto graphs = MakeDeviceGraphs(Best());
      LinearInput out = at::Tensor();
      const auto graph = graphs->Record([&] { out = *step.RunRaw(*backend); });
      const auto replay = [&](const std::string& what) {
        step.Plan(*backend);
        for (int i = 0; i < 3; ++i) graph->Launch();
        const LinearInput got = out.values.clone();
        ExpectSame(got, step.RunTwo(*backend), what);
        EXPECT_TRUE(step.CachesAreEqual()) << what;
      };
      for (const int64_t seed : {1, 2, 3}) {
        std::vector<int64_t> contexts = Contexts(sequences);
        for (int64_t& context : contexts) context = 1 + context * 37 * seed % context;
        step.SetContexts(contexts);
        replay(std::to_string(seed));
      }
      step.Pad();
      replay("padding");
    }
  }
}

}  // namespace
}  // namespace automodeld
