#include "core/patch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace automodeld {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(AssertSameSignature, OnlyTheOperationsNameMayDiffer) {
  const std::string rest = "(Tensor x, Tensor? residual, float eps=1e-6, *, bool quantize=False) -> (Tensor, Tensor)";
  EXPECT_TRUE(AssertSameSignature("norm" + rest, "norm" + rest).ok());
  EXPECT_TRUE(AssertSameSignature("norm" + rest, "mycorp::fast" + rest).ok());
  EXPECT_TRUE(AssertSameSignature("norm" + rest, "mycorp::norm.overload" + rest).ok());
}

// One property in which two signatures differ.
struct Difference {
  std::string name, original, patched;
};

class EveryProperty : public testing::TestWithParam<Difference> {};

TEST_P(EveryProperty, MakesSignaturesDifferAndBothAreShown) {
  const auto& [name, original, patched] = GetParam();
  for (const auto& [first, second] : {std::pair(original, patched), std::pair(patched, original)}) {
    const absl::Status status = AssertSameSignature(first, second);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(original), HasSubstr(patched)));
  }
}

INSTANTIATE_TEST_SUITE_P(
    AssertSameSignature, EveryProperty,
    testing::Values(
        Difference{"ArgumentName", "f(Tensor x) -> Tensor", "f(Tensor y) -> Tensor"},
        Difference{"ArgumentType", "f(float x) -> Tensor", "f(int x) -> Tensor"},
        Difference{"SymbolicInteger", "f(int x) -> Tensor", "f(SymInt x) -> Tensor"},
        Difference{"ListLength", "f(int[2] x) -> Tensor", "f(int[3] x) -> Tensor"},
        Difference{"Optional", "f(Tensor? x) -> Tensor", "f(Tensor x) -> Tensor"},
        Difference{"ArgumentOrder", "f(int x, float y) -> Tensor", "f(float y, int x) -> Tensor"},
        Difference{"NumberOfArguments", "f(Tensor x, int y) -> Tensor", "f(Tensor x) -> Tensor"},
        Difference{"NumberOfArgumentsWithDefaults", "f(Tensor x, int y=1) -> Tensor", "f(Tensor x) -> Tensor"},
        Difference{"KeywordOnly", "f(Tensor x, *, int y) -> Tensor", "f(Tensor x, int y) -> Tensor"},
        Difference{"DefaultValue", "f(float x=1e-6) -> Tensor", "f(float x=1e-5) -> Tensor"},
        Difference{"NoDefault", "f(float x=1e-6) -> Tensor", "f(float x) -> Tensor"},
        Difference{"NumberOfResults", "f(Tensor x) -> (Tensor, Tensor)", "f(Tensor x) -> Tensor"},
        Difference{"ResultType", "f(Tensor x) -> (Tensor, Tensor)", "f(Tensor x) -> (Tensor, int)"},
        Difference{"OptionalResult", "f(Tensor x) -> Tensor", "f(Tensor x) -> Tensor?"},
        Difference{"ResultName", "f(Tensor x) -> (Tensor a, Tensor b)", "f(Tensor x) -> (Tensor b, Tensor a)"},
        Difference{"MoreResults", "f(Tensor x) -> (Tensor, ...)", "f(Tensor x) -> Tensor"},
        Difference{"WrittenTo", "f(Tensor(a!) x) -> Tensor", "f(Tensor x) -> Tensor"},
        Difference{"ReadOrWritten", "f(Tensor(a!) x) -> Tensor", "f(Tensor(a) x) -> Tensor"},
        Difference{"ResultIsAnArgument", "f(Tensor(a) x) -> Tensor(a)", "f(Tensor(a) x) -> Tensor"},
        Difference{"WhichArgumentTheResultIs", "f(Tensor(a) x, Tensor(b) y) -> Tensor(a)",
                   "f(Tensor(a) x, Tensor(b) y) -> Tensor(b)"}),
    [](const auto& row) { return row.param.name; });

TEST(AssertSameSignature, WhatIsNoSchemaIsRefused) {
  for (const char* patched : {"", "norm", "norm(", "norm(Tensor x) -> (", "norm(Potato! x) -> Tensor"}) {
    EXPECT_EQ(AssertSameSignature("norm(Tensor x) -> Tensor", patched).code(), absl::StatusCode::kInvalidArgument)
        << patched;
  }
}

// Fused versions as FindFusedOps gives them, one of them spoilt by a test.
class PatchFused : public testing::Test {
 protected:
  PatchFused() : fused_(FindFusedOps(EagerOps(), target_.ops, at::kCPU, at::kFloat)) {}

  absl::StatusOr<PatchedOps> Patch() { return PatchFusedKernels(EagerOps(), fused_, target_, fallbacks_); }

  // The step fails as a whole: one attempt, no op replaced; an error where no fallback is allowed.
  void ExpectNothingInstalled(const std::string& error) {
    const auto patched = Patch();
    ASSERT_TRUE(patched.ok()) << patched.status();
    ForEachOp([](const auto& op) { EXPECT_EQ(op.version, "eager") << op.name; }, patched->ops);
    EXPECT_TRUE(patched->patches.empty());
    EXPECT_TRUE(patched->notes.empty());
    ASSERT_EQ(fallbacks_.attempts().size(), 1U);
    EXPECT_EQ(fallbacks_.attempts()[0].what, "use_liger_kernel");
    EXPECT_THAT(fallbacks_.attempts()[0].error, HasSubstr(error));
    EXPECT_EQ(fallbacks_.attempts()[0].fallback, "eager operations");
    Fallbacks strict(/*allowed=*/false);
    EXPECT_EQ(PatchFusedKernels(EagerOps(), fused_, target_, strict).status().code(),
              absl::StatusCode::kFailedPrecondition);
  }

  OpTarget target_ = {.architecture = "LlamaForCausalLM",
                      .ops = OpNames(),
                      .dims = {.hidden_size = 64,
                               .intermediate_size = 96,
                               .num_heads = 4,
                               .num_kv_heads = 2,
                               .head_dim = 16,
                               .vocab_size = 100},
                      .options = at::TensorOptions(at::kFloat).device(at::kCPU)};
  FusedOps fused_;
  Fallbacks fallbacks_{/*allowed=*/true};
};

TEST_F(PatchFused, InstallsAllVersionsThereAre) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    target_.options = target_.options.dtype(dtype);
    const auto patched = Patch();
    ASSERT_TRUE(patched.ok()) << patched.status();
    ForEachOp([](const auto& op) { EXPECT_EQ(op.version, "cpu") << op.name; }, patched->ops);
    ASSERT_EQ(patched->patches.size(), OpNames().size());
    EXPECT_EQ(patched->patches[0].op, "embed_tokens");
    EXPECT_EQ(patched->patches[0].from, "eager");
    EXPECT_EQ(patched->patches[0].to, "cpu");
  }
  EXPECT_TRUE(fallbacks_.attempts().empty());
}

TEST_F(PatchFused, OnAGpuEachOpIsPatchedOrNotedAndNothingFails) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    target_.options = at::TensorOptions(dtype).device(at::kCUDA);
    Fallbacks strict(/*allowed=*/false);
    const auto patched = PatchOps(LoadOptions(), target_, strict);
    ASSERT_TRUE(patched.ok()) << patched.status();
    EXPECT_FALSE(patched->patches.empty());
    EXPECT_EQ(patched->patches.size() + patched->notes.size(), OpNames().size());
  }
}

TEST_F(PatchFused, WhatIsUnavailableIsNotedAndNoFallback) {
  const std::vector<std::string> ops = {"rms_norm"};
  fused_ = FindFusedOps(EagerOps(), ops, at::kCPU, at::kFloat);
  fused_.unpatched = {{"sample", "none for it"}};
  Fallbacks strict(/*allowed=*/false);
  const auto patched = PatchFusedKernels(EagerOps(), fused_, target_, strict);
  ASSERT_TRUE(patched.ok()) << patched.status();
  EXPECT_EQ(patched->ops.rms_norm.version, "cpu");
  EXPECT_THAT(patched->notes, ElementsAre("sample stays eager: none for it"));
  EXPECT_TRUE(strict.attempts().empty());
}

TEST_F(PatchFused, NoVersionAtAllIsNotedOpByOpAndNoFallback) {
  fused_ = FindFusedOps(EagerOps(), target_.ops, at::kCPU, at::kComplexFloat);
  Fallbacks strict(/*allowed=*/false);
  const auto patched = PatchFusedKernels(EagerOps(), fused_, target_, strict);
  ASSERT_TRUE(patched.ok()) << patched.status();
  EXPECT_TRUE(patched->patches.empty());
  ASSERT_EQ(patched->notes.size(), OpNames().size());
  EXPECT_EQ(patched->notes[0], "embed_tokens stays eager: no fused version for cpu and ComplexFloat");
}

TEST_F(PatchFused, AnArchitectureThatCallsNoOperationIsAFallback) {
  target_.ops.clear();
  fused_ = FindFusedOps(EagerOps(), target_.ops, at::kCPU, at::kFloat);
  ExpectNothingInstalled("LlamaForCausalLM calls no operation that could be fused");
}

TEST_F(PatchFused, OneOtherSignatureInstallsNone) {
  fused_.ops.sample.schema = "sample(Tensor logits) -> Tensor";
  ExpectNothingInstalled("signatures differ");
}

TEST_F(PatchFused, OneWrongValueInstallsNone) {
  const auto right = fused_.ops.act_mul.function;
  fused_.ops.act_mul.function = [right](const at::Tensor& gate_up, const std::string& activation, bool quantize) {
    auto [y, scale] = right(gate_up, activation, quantize);
    y.select(-1, -1).add_(0.01);  // the last column
    return std::tuple(y, scale);
  };
  ExpectNothingInstalled("act_mul: silu 2 x 96: result 0 differs by 0.01");
}

TEST_F(PatchFused, AnotherTokenInstallsNone) {
  const auto right = fused_.ops.sample.function;
  fused_.ops.sample.function = [right](const auto&... arguments) { return right(arguments...).add(1); };
  ExpectNothingInstalled("sample: greedy 1 x 100: result 0 differs");
}

TEST_F(PatchFused, AWrongShapeInstallsNone) {
  const auto right = fused_.ops.rms_norm.function;
  fused_.ops.rms_norm.function = [right](const auto&... arguments) {
    auto [y, scale, sum] = right(arguments...);
    return NormResult(y.unsqueeze(0), scale, sum);
  };
  ExpectNothingInstalled("rms_norm: 3 x 64: result 0 is Float [1, 3, 64], eager's Float [3, 64]");
}

TEST_F(PatchFused, AWrongTypeInstallsNone) {
  const auto right = fused_.ops.layer_norm.function;
  fused_.ops.layer_norm.function = [right](const auto&... arguments) {
    auto [y, scale, sum] = right(arguments...);
    return NormResult(y, scale, sum.to(at::kHalf));
  };
  ExpectNothingInstalled("layer_norm: 3 x 64: result 2 is Half [3, 64], eager's Float [3, 64]");
}

TEST_F(PatchFused, AWrongCacheInstallsNone) {
  const auto right = fused_.ops.qkv_rope_write_kv.function;
  fused_.ops.qkv_rope_write_kv.function = [right](const auto&... arguments) {
    const auto results = right(arguments...);
    const auto& k_cache = std::get<8>(std::tie(arguments...));
    if (k_cache.has_value()) k_cache->zero_();
    return results;
  };
  ExpectNothingInstalled("qkv_rope_write_kv: 3 tokens, 4/2 heads of 16, 16 rotated, cache: result 3 differs by 7");
}

TEST_F(PatchFused, OneThatThrowsInstallsNone) {
  fused_.ops.sample.function = [](const auto&...) -> at::Tensor { throw std::runtime_error("no such instruction"); };
  ExpectNothingInstalled("sample: greedy 1 x 100: no such instruction");
}

TEST_F(PatchFused, NoMemoryIsNoFaultOfAKernel) {
  fused_.ops.sample.function = [](const auto&...) -> at::Tensor { throw std::bad_alloc(); };
  EXPECT_EQ(Patch().status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(fallbacks_.attempts().empty());
}

TEST_F(PatchFused, DimensionsThatNoModelHasAreTriedWithoutTakingTheMemory) {
  constexpr int64_t kHuge = int64_t{1} << 40;
  target_.dims = {.hidden_size = kHuge,
                  .intermediate_size = kHuge,
                  .num_heads = 4096,
                  .num_kv_heads = 4096,
                  .head_dim = 1024,
                  .vocab_size = kHuge};
  EXPECT_TRUE(Patch().ok());
  EXPECT_TRUE(fallbacks_.attempts().empty());
}

TEST(EagerOps, HaveSchemasThatParse) {
  ForEachOp([](const auto& op) { EXPECT_TRUE(AssertSameSignature(op.schema, op.schema).ok()) << op.schema; },
            EagerOps());
}

}  // namespace
}  // namespace automodeld
