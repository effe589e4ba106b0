#include "kernels/linear.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

at::Tensor Random(at::IntArrayRef sizes, uint64_t seed, at::ScalarType dtype) {
  return at::randn(sizes, at::detail::createCPUGenerator(seed), at::kFloat).to(dtype);
}

// Float32: another order of sums of about 100 terms of size 1. 16 bits: one rounding of the result, two with a bias.
double Tolerance(at::ScalarType dtype) {
  if (dtype == at::kFloat) return 2e-5;
  return dtype == at::kHalf ? 2e-3 : 1.6e-2;
}

void Check(int64_t rows, int64_t in, int64_t out, bool with_bias, at::ScalarType dtype, at::Device device) {
  const at::Tensor x = Random({rows, in}, 1, dtype), weight = Random({out, in}, 2, dtype), b = Random({out}, 3, dtype);
  std::optional<at::Tensor> bias;
  if (with_bias) bias = b.to(device);
  const at::Tensor y = RunLinear(x.to(device), weight.to(device), bias);
  ASSERT_EQ(y.scalar_type(), dtype);
  at::Tensor expected = at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t());
  if (with_bias) expected = expected + b.to(at::kDouble);
  ASSERT_EQ(y.sizes(), expected.sizes());
  EXPECT_TRUE(at::allclose(y.to(at::kCPU).to(at::kDouble), expected, Tolerance(dtype), 3 * Tolerance(dtype)))
      << rows << " rows, " << in << " -> " << out << " in " << dtype << (with_bias ? " with a bias" : "");
}

TEST(Linear, GivesTheProductForEveryShapeDtypeAndDevice) {
  for (const at::Device device : Devices()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      for (const int64_t rows : {0, 1, 2, 3, 5, 16, 17, 70}) {
        for (const auto& [in, out] : {std::pair{128, 64}, std::pair{33, 7}, std::pair{1, 130}, std::pair{95, 201}}) {
          Check(rows, in, out, rows % 2 == 0, dtype, device);
        }
      }
    }
  }
}

TEST(Linear, EveryInstructionLevelGivesTheProduct) {
  for (const SimdLevel level : SimdLevels()) {
    const ScopedSimdLevel scoped(level);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      for (const int64_t rows : {1, 6, 40}) Check(rows, 77, 19, true, dtype, at::kCPU);
    }
  }
}

TEST(Linear, ARowHasTheSameBitsWhateverTheOthers) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = Random({100, 200}, 4, dtype), weight = Random({100, 200}, 5, dtype);
    const at::Tensor alone = RunLinear(x.narrow(0, 0, 1), weight);
    for (const int64_t rows : {2, 3, 7, 16, 17, 100}) {
      if (rows > 16 && dtype != at::kFloat) continue;  // promised of float32 alone
      EXPECT_TRUE(at::equal(RunLinear(x.narrow(0, 0, rows), weight).narrow(0, 0, 1), alone)) << rows << " rows";
    }
  }
}

TEST(Linear, RowsMayLieApart) {
  const at::Tensor wide = Random({4, 100}, 6, at::kFloat), weight = Random({9, 40}, 7, at::kFloat);
  const at::Tensor x = wide.narrow(1, 30, 40);
  EXPECT_TRUE(at::allclose(RunLinear(x, weight), at::linear(x.contiguous(), weight), 1e-5, 1e-5));
}

TEST(Linear, SaysWhichKernelsAGpuDoesWithout) {
  EXPECT_EQ(MissingKernels(at::kCPU), "");
  EXPECT_EQ(MissingKernels(8, 6),
            "Hopper's kernels for linear layers of few rows and for attention over prompts need "
            "compute capability 9.0, this device has 8.6");
  EXPECT_EQ(MissingKernels(9, 0),
            "Hopper's kernels for linear layers of few rows and for attention over prompts are "
            "not in this build");
}

TEST(PackedLinear, GivesTheProductAtEveryInstructionLevel) {
  for (const SimdLevel level : SimdLevels()) {
    const ScopedSimdLevel scoped(level);
    for (const int64_t rows : {0, 1, 3, 4, 12, 13, 108, 109, 250}) {
      for (const auto& [in, out] : {std::pair{128, 64}, std::pair{33, 32}, std::pair{1, 96}, std::pair{95, 160}}) {
        const at::Tensor x = Random({rows, in}, 1, at::kFloat), weight = Random({out, in}, 2, at::kFloat);
        const at::Tensor packed = PackWeight(weight);
        ASSERT_EQ(packed.dim(), 3);
        const at::Tensor expected = at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t());
        EXPECT_TRUE(at::allclose(RunLinear(x, packed).to(at::kDouble), expected, 2e-5, 6e-5))
            << rows << " rows, " << in << " -> " << out;
      }
    }
  }
}

TEST(PackedLinear, AddsTheBiasAndAppliesTheActivation) {
  const at::Tensor x = Random({29, 70}, 1, at::kFloat), weight = Random({64, 70}, 2, at::kFloat) * 0.2;
  const at::Tensor bias = Random({64}, 3, at::kFloat);
  for (const SimdLevel level : SimdLevels()) {
    const ScopedSimdLevel scoped(level);
    for (const std::string activation : {"", "relu", "silu", "gelu", "gelu_tanh"}) {
      const at::Tensor plain = at::linear(x.to(at::kDouble), weight.to(at::kDouble), bias.to(at::kDouble));
      const at::Tensor expected = activation.empty() ? plain : Activate(plain, activation);
      const at::Tensor y = RunLinear(x, PackWeight(weight), bias, activation);
      EXPECT_TRUE(at::allclose(y.to(at::kDouble), expected, 2e-5, 1e-5)) << activation;
    }
  }
}

TEST(PackedLinear, ARowHasTheSameBitsWhateverTheOthers) {
  const at::Tensor x = Random({300, 200}, 4, at::kFloat), packed = PackWeight(Random({96, 200}, 5, at::kFloat));
  const at::Tensor all = RunLinear(x, packed);
  for (const auto& [first, rows] : {std::pair{0, 1}, std::pair{7, 3}, std::pair{7, 5}, std::pair{100, 13},
                                    std::pair{120, 12 + 1}, std::pair{150, 150}}) {
    EXPECT_TRUE(at::equal(RunLinear(x.narrow(0, first, rows), packed), all.narrow(0, first, rows))) << rows << " rows";
  }
}

TEST(PackedLinear, RowsMayLieApart) {
  const at::Tensor x = Random({20, 100}, 6, at::kFloat).narrow(1, 30, 40), weight = Random({32, 40}, 7, at::kFloat);
  EXPECT_TRUE(at::allclose(RunLinear(x, PackWeight(weight)), at::linear(x.contiguous(), weight), 1e-5, 1e-5));
}

TEST(PackedLinear, OtherWeightsStayAsTheyAre) {
  for (const at::Tensor& weight : {Random({33, 40}, 8, at::kFloat), Random({32, 40}, 8, at::kBFloat16)}) {
    EXPECT_TRUE(PackWeight(weight).is_same(weight));
  }
}

TEST(PackedLinear, WrongShapesAndActivationsAreNamed) {
  const at::Tensor packed = PackWeight(Random({32, 40}, 9, at::kFloat));
  EXPECT_THROW(RunLinear(at::zeros({2, 41}), packed), c10::Error);
  EXPECT_THROW(RunLinear(at::zeros({2, 40}), packed, at::zeros({31})), c10::Error);
  EXPECT_THROW(RunLinear(at::zeros({2, 40}), packed, std::nullopt, "tanh"), c10::Error);
}

}  // namespace
}  // namespace automodeld
