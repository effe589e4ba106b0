// Every fused kernel, on every device and dtype it is registered for, on all its samples, against eager.
#include <c10/core/ScalarType.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "kernels/registry.h"
#include "tests/kernels/devices.h"
#include "tests/kernels/poisoned_memory.h"

namespace automodeld {
namespace {

// Against eager in float32 from the same rounded inputs. Float32: another order of sums. 16-bit: results pass through
// up to four roundings of half a unit in the last place, of values that reach about 10 before they cancel.
struct Tolerance {
  double relative, absolute;
};

Tolerance ToleranceOf(at::ScalarType dtype) {
  if (dtype == at::kFloat) return {1e-5, 1e-5};
  return dtype == at::kHalf ? Tolerance{2e-3, 8e-3} : Tolerance{1.6e-2, 6.4e-2};
}

Ops Installed(const Kernel& kernel) {
  Ops ops = EagerOps();
  kernel.install(ops);
  return ops;
}

// Integers (tokens) must be equal: versions of `sample` agree on every draw.
void ExpectClose(const SampleResult& got, const SampleResult& expected, Tolerance tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].defined(), expected[i].defined()) << "result " << i;
    if (!got[i].defined()) continue;
    const at::Tensor mine = got[i].to(at::kCPU), reference = expected[i].to(at::kCPU);
    ASSERT_EQ(mine.sizes(), reference.sizes()) << "result " << i;
    if (!at::isFloatingType(mine.scalar_type())) {
      EXPECT_TRUE(at::equal(mine, reference)) << "result " << i << "\n" << mine << "\n" << reference;
      continue;
    }
    const at::Tensor wide = mine.to(at::kFloat);
    EXPECT_TRUE(at::allclose(wide, reference.to(at::kFloat), tolerance.relative, tolerance.absolute))
        << "result " << i << " differs by " << (wide - reference).abs().max().item<double>();
  }
}

void Check(const Kernel& kernel, at::Device device, at::ScalarType dtype) {
  const Ops fused = Installed(kernel), eager = EagerOps();
  for (const Sample& sample : kernel.samples()) {
    SCOPED_TRACE(kernel.op + " on " + VersionName(kernel.device) + " in " + c10::toString(dtype) + ": " + sample.name);
    SampleTensors inputs(device, dtype, dtype), reference(at::kCPU, dtype, at::kFloat);
    const SampleResult expected = sample.run(eager, reference);
    const PoisonedMemory poisoned;
    ASSERT_TRUE(at::empty({3}, at::TensorOptions(dtype).device(device)).isnan().all().item<bool>());
    ExpectClose(sample.run(fused, inputs), expected, ToleranceOf(dtype));
  }
}

class FusedOp : public testing::TestWithParam<std::string> {};  // its name

TEST_P(FusedOp, GivesWhatEagerGivesOnEverySample) {
  for (const Kernel& kernel : RegisteredKernels()) {
    if (kernel.op != GetParam() || !Runs(kernel)) continue;
    for (const at::ScalarType dtype : kernel.dtypes) Check(kernel, at::Device(kernel.device), dtype);
  }
}

INSTANTIATE_TEST_SUITE_P(Named, FusedOp, testing::ValuesIn(OpNames()), [](const auto& name) { return name.param; });

TEST(Fused, EveryInstructionLevelGivesTheSame) {
  for (const SimdLevel level : SimdLevels()) {
    const ScopedSimdLevel scoped(level);
    for (const Kernel& kernel : RegisteredKernels()) {
      if (kernel.device == at::kCPU) Check(kernel, at::kCPU, at::kFloat);
      if (kernel.device == at::kCPU) Check(kernel, at::kCPU, at::kBFloat16);
    }
  }
}

// In 16 bits the fused versions round where the eager ones do, so that almost every value is the same. Sums that are
// given in float32 may be added in another order.
TEST(Fused, SixteenBitVersionsRoundWhereEagerRounds) {
  for (const Kernel& kernel : RegisteredKernels()) {
    if (!Runs(kernel)) continue;
    const Ops fused = Installed(kernel), eager = EagerOps();
    const at::Device device(kernel.device);
    for (const Sample& sample : kernel.samples()) {
      SampleTensors inputs(device, at::kBFloat16, at::kBFloat16), same(device, at::kBFloat16, at::kBFloat16);
      const SampleResult got = sample.run(fused, inputs), expected = sample.run(eager, same);
      for (size_t i = 0; i < got.size(); ++i) {
        if (!got[i].defined() || got[i].numel() < 100 || got[i].scalar_type() == at::kFloat) continue;
        const double equal = got[i].eq(expected[i]).to(at::kFloat).mean().item<double>();
        EXPECT_GE(equal, 0.98) << kernel.op << " on " << VersionName(kernel.device) << ": " << sample.name
                               << ", result " << i;
      }
    }
  }
}

TEST(Fused, EveryOpHasAVersionForTheCpu) {
  const FusedOps found = FindFusedOps(EagerOps(), OpNames(), at::kCPU, at::kBFloat16);
  EXPECT_EQ(found.patched.size(), OpNames().size());
  EXPECT_TRUE(found.unpatched.empty());
  EXPECT_EQ(found.ops.rms_norm.version, "cpu");
  EXPECT_EQ(found.ops.rms_norm.schema, EagerOps().rms_norm.schema);
}

TEST(Fused, OnlyTheOpsAskedForAreReplaced) {
  const std::vector<std::string> ops = {"sample"};
  const FusedOps found = FindFusedOps(EagerOps(), ops, at::kCPU, at::kFloat);
  EXPECT_EQ(found.patched, (std::vector<std::pair<std::string, std::string>>{{"sample", "cpu"}}));
  EXPECT_EQ(found.ops.sample.version, "cpu");
  EXPECT_EQ(found.ops.rms_norm.version, "eager");
}

TEST(Fused, WhatTheDeviceCannotRunStaysEagerAndIsNamed) {
  const auto sample = std::ranges::find_if(
      RegisteredKernels(), [](const Kernel& kernel) { return kernel.op == "sample" && kernel.device == at::kCPU; });
  ASSERT_NE(sample, RegisteredKernels().end());
  const auto why_not = std::exchange(sample->why_not, [](at::Device device) { return device.str() + " is too old"; });
  const std::vector<std::string> ops = {"sample", "rms_norm"};
  const FusedOps found = FindFusedOps(EagerOps(), ops, at::kCPU, at::kFloat);
  EXPECT_FALSE(Runs(*sample));
  sample->why_not = why_not;
  EXPECT_TRUE(Runs(*sample));
  EXPECT_EQ(found.patched, (std::vector<std::pair<std::string, std::string>>{{"rms_norm", "cpu"}}));
  EXPECT_EQ(found.unpatched, (std::vector<std::pair<std::string, std::string>>{{"sample", "cpu is too old"}}));
  EXPECT_EQ(found.ops.sample.version, "eager");
}

TEST(Fused, WhatHasNoVersionStaysEagerAndIsNamed) {
  const FusedOps found = FindFusedOps(EagerOps(), OpNames(), at::kCPU, at::kDouble);
  EXPECT_TRUE(found.patched.empty());
  ASSERT_EQ(found.unpatched.size(), OpNames().size());
  EXPECT_EQ(found.unpatched[0],
            (std::pair<std::string, std::string>("embed_tokens", "no fused version for cpu and Double")));
  EXPECT_EQ(found.ops.rms_norm.version, "eager");
}

}  // namespace
}  // namespace automodeld
