// The eager ops against formulas written out another way, and what they promise about quantisation.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "kernels/ops.h"
#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

constexpr std::nullopt_t kNone = std::nullopt;

at::Tensor Random(at::IntArrayRef sizes, uint64_t seed) {
  return at::randn(sizes, at::detail::createCPUGenerator(seed), at::kFloat);
}

double Difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST(Eager, RmsNormGivesEachRowTheWeightsLength) {
  const at::Tensor x = Random({5, 48}, 1), residual = Random({5, 48}, 2), weight = Random({48}, 3);
  const auto [y, scale, sum] = EagerOps().rms_norm(x, residual, weight, 0.0, false);
  EXPECT_FALSE(scale.defined());
  EXPECT_TRUE(at::equal(sum, x + residual));
  const at::Tensor length = (sum * sum).mean(-1, true).sqrt();
  EXPECT_LE(Difference(y, sum / length * weight), 1e-5);
}

TEST(Eager, LayerNormTakesMeanAndVarianceAway) {
  const at::Tensor x = Random({5, 48}, 1) * 3 + 7;
  const auto [y, scale, sum] = EagerOps().layer_norm(x, kNone, at::ones({48}), at::zeros({48}), 0.0, false);
  EXPECT_LE(y.mean(-1).abs().max().item<double>(), 1e-5);
  EXPECT_LE(Difference(y.var(-1, /*unbiased=*/false), at::ones({5})), 1e-4);
}

TEST(Eager, RotationIsByTheAngleOfThePosition) {
  constexpr int64_t kHead = 8;
  const at::Tensor angles = at::arange(10, at::kFloat).unsqueeze(1) * at::tensor({1.0, 0.5, 0.25}, at::kFloat);
  const at::Tensor cos_sin = at::stack({angles.cos(), angles.sin()}, 1);  // rotates 6 of 8
  const at::Tensor qkv = Random({2, 3 * kHead}, 4), positions = at::tensor({7, 0}, at::kLong);
  const auto [q, k, v] =
      EagerOps().qkv_rope_write_kv(qkv, 1, 1, kNone, kNone, 0.0, cos_sin, positions, kNone, kNone, kNone, 1.0, 1.0);
  for (int64_t i = 0; i < 3; ++i) {
    const double angle = angles[7][i].item<double>(), a = qkv[0][i].item<double>(), b = qkv[0][3 + i].item<double>();
    EXPECT_NEAR(q[0][0][i].item<double>(), a * std::cos(angle) - b * std::sin(angle), 1e-5);
    EXPECT_NEAR(q[0][0][3 + i].item<double>(), b * std::cos(angle) + a * std::sin(angle), 1e-5);
  }
  EXPECT_TRUE(at::equal(q[0][0].narrow(0, 6, 2), qkv[0].narrow(0, 6, 2)));  // not rotated
  EXPECT_TRUE(at::equal(k[1][0], qkv[1].narrow(0, kHead, kHead)));          // position 0
  EXPECT_TRUE(at::equal(v[0][0], qkv[0].narrow(0, 2 * kHead, kHead)));
}

TEST(Eager, KeysAndValuesGoToTheirSlotsAndNowhereElse) {
  const at::Tensor qkv = Random({2, 3 * 4}, 5), slots = at::tensor({9, 2}, at::kLong);
  at::Tensor keys = at::zeros({3, 4, 1, 4}), values = at::zeros({3, 4, 1, 4});
  EagerOps().qkv_rope_write_kv(qkv, 1, 1, kNone, kNone, 0.0, kNone, at::zeros({2}, at::kLong), keys, values, slots, 1.0,
                               1.0);
  EXPECT_TRUE(at::equal(keys[2][1][0], qkv[0].narrow(0, 4, 4)));
  EXPECT_TRUE(at::equal(values[2][1][0], qkv[0].narrow(0, 8, 4)));
  EXPECT_TRUE(at::equal(keys[0][2][0], qkv[1].narrow(0, 4, 4)));
  EXPECT_EQ(keys.count_nonzero().item<int64_t>(), 8);
}

TEST(Eager, AnUnknownActivationIsRefusedWithTheKnownOnes) {
  for (const Ops& ops : {EagerOps(), FindFusedOps(EagerOps(), OpNames(), at::kCPU, at::kFloat).ops}) {
    try {
      ops.act_mul(at::zeros({1, 4}), "relu", false);
      FAIL() << "relu was taken";
    } catch (const c10::Error& error) {
      EXPECT_STREQ(error.what_without_backtrace(), "act_mul: activation 'relu' is none of silu, gelu, gelu_tanh");
    }
  }
}

TEST(Eager, QuantisedRowsKeepThreeBitsAndFillTheRange) {
  for (const at::Device device : Devices()) {
    const at::Tensor x = (Random({6, 64}, 6) * at::logspace(-6, 4, 6).unsqueeze(1)).to(device);
    for (const Ops& ops : {EagerOps(), FindFusedOps(EagerOps(), OpNames(), device, at::kFloat).ops}) {
      const auto [y, none, sum] = ops.rms_norm(x, kNone, at::ones({64}).to(device), 1e-12, false);
      const auto [quantised, scale, same] = ops.rms_norm(x, kNone, at::ones({64}).to(device), 1e-12, true);
      EXPECT_EQ(quantised.scalar_type(), at::kFloat8_e4m3fn);
      EXPECT_EQ(scale.sizes(), at::IntArrayRef({6, 1}));
      const at::Tensor wide = quantised.to(at::kFloat);
      EXPECT_TRUE(wide.abs().amax(-1).eq(448).all().item<bool>());
      // Half a unit of three stored bits, or of the smallest denormal.
      EXPECT_TRUE(((wide * scale - y).abs() <= y.abs() / 16 + scale / 1024).all().item<bool>());
    }
  }
}

TEST(Eager, ARowOfZerosQuantisesToZeros) {
  const auto [quantised, scale] = EagerOps().act_mul(at::zeros({2, 32}), "silu", true);
  EXPECT_EQ(quantised.to(at::kFloat).count_nonzero().item<int64_t>(), 0);
  EXPECT_TRUE(scale.isfinite().all().item<bool>());
}

}  // namespace
}  // namespace automodeld
