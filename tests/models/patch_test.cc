#include "core/patch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace automodeld {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char kOriginal[] =
    "norm(Tensor x, Tensor? residual, float eps=1e-6, bool quantize=False) -> (Tensor, Tensor)";

TEST(AssertSameSignature, OnlyTheNameMayDiffer) {
  EXPECT_TRUE(AssertSameSignature(kOriginal, kOriginal).ok());
  EXPECT_TRUE(AssertSameSignature(kOriginal,
                                  "mycorp::fast(Tensor x, Tensor? residual, float eps=1e-6, "
                                  "bool quantize=False) -> (Tensor, Tensor)")
                  .ok());
}

TEST(AssertSameSignature, EveryDifferenceIsRefusedAndBothAreShown) {
  for (const char* patched : {
           "norm(Tensor y, Tensor? residual, float eps=1e-6, bool quantize=False) -> (Tensor, Tensor)",  // a name
           "norm(Tensor x, Tensor residual, float eps=1e-6, bool quantize=False) -> (Tensor, Tensor)",   // a type
           "norm(Tensor x, Tensor? residual, bool quantize=False, float eps=1e-6) -> (Tensor, Tensor)",  // the order
           "norm(Tensor x, Tensor? residual, float eps=1e-5, bool quantize=False) -> (Tensor, Tensor)",  // a default
           "norm(Tensor x, Tensor? residual, float eps, bool quantize=False) -> (Tensor, Tensor)",       // no default
           "norm(Tensor x, Tensor? residual, float eps=1e-6) -> (Tensor, Tensor)",                       // one less
           "norm(Tensor x, Tensor? residual, *, float eps=1e-6, bool quantize=False) -> (Tensor, Tensor)",   // by
                                                                                                             // keyword
           "norm(Tensor(a!) x, Tensor? residual, float eps=1e-6, bool quantize=False) -> (Tensor, Tensor)",  // written
                                                                                                             // to
           "norm(Tensor x, Tensor? residual, float eps=1e-6, bool quantize=False) -> Tensor",                // results
           "norm(Tensor x, Tensor? residual, float eps=1e-6, bool quantize=False) -> (Tensor, ...)",
       }) {
    const absl::Status status = AssertSameSignature(kOriginal, patched);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << patched;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(kOriginal), HasSubstr(patched)));
  }
}

TEST(AssertSameSignature, WhatIsNoSchemaIsRefused) {
  for (const char* patched : {"", "norm", "norm(", "norm(Tensor x) -> (", "norm(Potato! x) -> Tensor"}) {
    EXPECT_EQ(AssertSameSignature(kOriginal, patched).code(), absl::StatusCode::kInvalidArgument) << patched;
  }
}

TEST(PatchFusedKernels, InstallsAllVersionsAndNamesWhatThereIsAndWhatThereIsNot) {
  FusedOps fused{.ops = EagerOps(), .patched = {{"rms_norm", "cpu"}}, .unpatched = {{"sample", "none for it"}}};
  fused.ops.rms_norm.version = "cpu";
  Fallbacks fallbacks(/*allowed=*/false);
  const auto patched = PatchFusedKernels(EagerOps(), fused, fallbacks);
  ASSERT_TRUE(patched.ok()) << patched.status();
  EXPECT_EQ(patched->ops.rms_norm.version, "cpu");
  ASSERT_EQ(patched->patches.size(), 1U);
  EXPECT_EQ(patched->patches[0].op, "rms_norm");
  EXPECT_EQ(patched->patches[0].from, "eager");
  EXPECT_EQ(patched->patches[0].to, "cpu");
  ASSERT_EQ(fallbacks.attempts().size(), 1U);  // noted, although no fallback is allowed: nothing failed
  EXPECT_EQ(fallbacks.attempts()[0].what, "use_liger_kernel=sample");
  EXPECT_EQ(fallbacks.attempts()[0].error, "none for it");
  EXPECT_EQ(fallbacks.attempts()[0].fallback, "eager");
}

TEST(PatchFusedKernels, OneWrongSignatureInstallsNone) {
  FusedOps fused{.ops = EagerOps(), .patched = {{"rms_norm", "cpu"}, {"sample", "cpu"}}, .unpatched = {}};
  fused.ops.rms_norm.version = "cpu";
  fused.ops.sample.version = "cpu";
  fused.ops.sample.schema = "sample(Tensor logits) -> Tensor";
  Fallbacks fallbacks(/*allowed=*/true);
  const auto patched = PatchFusedKernels(EagerOps(), fused, fallbacks);
  ASSERT_TRUE(patched.ok());
  EXPECT_EQ(patched->ops.rms_norm.version, "eager");
  EXPECT_TRUE(patched->patches.empty());
  ASSERT_EQ(fallbacks.attempts().size(), 1U);
  EXPECT_THAT(fallbacks.attempts()[0].error, HasSubstr("signatures differ"));
  Fallbacks strict(/*allowed=*/false);
  EXPECT_EQ(PatchFusedKernels(EagerOps(), fused, strict).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(PatchFusedKernels, NoVersionAtAllIsAFallback) {
  const FusedOps fused{.ops = EagerOps(), .patched = {}, .unpatched = {{"rms_norm", "none"}, {"sample", "none"}}};
  Fallbacks fallbacks(/*allowed=*/true);
  ASSERT_TRUE(PatchFusedKernels(EagerOps(), fused, fallbacks).ok());
  ASSERT_EQ(fallbacks.attempts().size(), 1U);
  EXPECT_EQ(fallbacks.attempts()[0].what, "use_liger_kernel");
  EXPECT_EQ(fallbacks.attempts()[0].error, "rms_norm: none; sample: none");
}

TEST(EagerOps, HaveSchemasThatParse) {
  const Ops ops = EagerOps();
  for (const std::string& schema : {ops.rms_norm.schema, ops.layer_norm.schema, ops.qkv_rope_write_kv.schema,
                                    ops.act_mul.schema, ops.sample.schema}) {
    EXPECT_TRUE(AssertSameSignature(schema, schema).ok()) << schema;
  }
}

}  // namespace
}  // namespace automodeld
