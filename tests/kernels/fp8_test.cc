#include "kernels/fp8.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/cpu/fp8_product.h"
#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

at::Tensor Random(at::IntArrayRef sizes, uint64_t seed, at::ScalarType dtype = at::kFloat) {
  return at::randn(sizes, at::detail::createCPUGenerator(seed), at::kFloat).to(dtype);
}

// Every code of e4m3 but its two NaNs, the same number of times or nearly.
at::Tensor RandomE4m3(int64_t rows, int64_t columns, uint64_t seed) {
  const at::Tensor codes = at::randint(256, {rows, columns}, at::detail::createCPUGenerator(seed), at::kByte);
  return codes.masked_fill(codes.bitwise_and(0x7f).eq(0x7f), 0x11).view(at::kFloat8_e4m3fn);
}

Fp8Weight Quantized(const at::Tensor& weight, Fp8Scaling scaling) {
  Fp8Weight to = EmptyFp8Weight(weight.size(0), weight.size(1), weight.device());
  QuantizeWeight(weight, scaling, to);
  return to;
}

Fp8Weight Moved(const Fp8Weight& weight, at::Device device) {
  return {.values = weight.values.to(device), .scale = weight.scale.to(device), .emulate = weight.emulate};
}

at::Tensor Bits(const at::Tensor& values) { return values.view(at::kByte); }

double RelativeError(const at::Tensor& got, const at::Tensor& expected) {
  return ((got.to(at::kCPU).to(at::kDouble) - expected).norm() / expected.norm()).item<double>();
}

TEST(Fp8Weight, TheLargestValueOfARowOrOfTheTensorBecomes448) {
  for (const at::Device device : Devices()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      const at::Tensor weight = Random({48, 80}, 1, dtype), wide = weight.to(at::kFloat);
      const Fp8Weight rows = Moved(Quantized(weight.to(device), Fp8Scaling::kRow), at::kCPU);
      EXPECT_TRUE(rows.scale.equal(wide.abs().amax({1}, true) / 448.0)) << dtype;
      EXPECT_TRUE(Bits(rows.values).equal(Bits((wide / rows.scale).to(at::kFloat8_e4m3fn)))) << dtype;
      EXPECT_TRUE(rows.values.to(at::kFloat).abs().amax({1}).eq(448.0).all().item<bool>());
      const Fp8Weight whole = Moved(Quantized(weight.to(device), Fp8Scaling::kTensor), at::kCPU);
      EXPECT_TRUE(whole.scale.equal((wide.abs().amax() / 448.0).expand({48, 1}))) << dtype;
      EXPECT_TRUE(Bits(whole.values).equal(Bits((wide / whole.scale).to(at::kFloat8_e4m3fn)))) << dtype;
    }
  }
}

TEST(Fp8Weight, AMatrixLargerThanAChunkIsQuantisedAsOne) {
  const at::Tensor weight = Random({700, 7000}, 2);
  const Fp8Weight whole = Quantized(weight, Fp8Scaling::kTensor);
  EXPECT_TRUE(whole.scale.equal((weight.abs().amax() / 448.0).expand({700, 1})));
  EXPECT_TRUE(Bits(whole.values).equal(Bits((weight / whole.scale).to(at::kFloat8_e4m3fn))));
  at::Tensor back = at::empty_like(weight);
  DequantizeWeight(whole, back);
  EXPECT_TRUE(back.equal(whole.values.to(at::kFloat) * whole.scale));
}

TEST(Fp8Weight, ARowOfZerosStaysZeroAndNanStaysNan) {
  at::Tensor weight = Random({3, 32}, 3);
  weight.select(0, 0).zero_();
  weight[1][5] = std::numeric_limits<float>::quiet_NaN();
  const Fp8Weight rows = Quantized(weight, Fp8Scaling::kRow);
  at::Tensor back = at::empty_like(weight);
  DequantizeWeight(rows, back);
  EXPECT_TRUE(back[0].eq(0).all().item<bool>());
  EXPECT_TRUE(back[1].isnan().all().item<bool>());
  EXPECT_FALSE(back[2].isnan().any().item<bool>());
}

TEST(Fp8Weight, ABlockOf128InputsHasItsOwnScale) {
  Fp8Weight weight = EmptyFp8Weight(5, 300, at::kCPU, /*blocks=*/true);
  ASSERT_EQ(weight.scale.sizes(), at::IntArrayRef({5, 3}));
  weight.values.copy_(RandomE4m3(5, 300, 4));
  weight.scale.copy_(Random({5, 3}, 5).abs());
  at::Tensor back = at::empty({5, 300}, at::kDouble);
  DequantizeWeight(weight, back);
  for (const int64_t column : {0, 127, 128, 255, 256, 299}) {
    const at::Tensor expected = weight.values.select(1, column).to(at::kFloat) * weight.scale.select(1, column / 128);
    EXPECT_TRUE(back.select(1, column).equal(expected.to(at::kDouble))) << column;
  }
}

TEST(Fp8Product, EveryCodeIsReadAsItsValueAtEveryInstructionLevel) {
  const at::Tensor codes = at::arange(256, at::kByte).view({256, 1}).view(at::kFloat8_e4m3fn);
  const Fp8Weight weight{.values = codes, .scale = at::ones({256, 1})};
  const at::Tensor one = at::ones({1, 1}).to(at::kFloat8_e4m3fn), expected = codes.to(at::kFloat).t();
  for (const SimdLevel level : SimdLevels()) {
    const ScopedSimdLevel scoped(level);
    EXPECT_TRUE(at::allclose(CpuFp8Product(one, weight), expected, 0, 0, /*equal_nan=*/true));
  }
}

TEST(Fp8Product, IsExactAtEveryInstructionLevelForEveryShape) {
  for (const SimdLevel level : SimdLevels()) {
    const ScopedSimdLevel scoped(level);
    for (const int64_t rows : {1, 2, 5, 33, 70}) {
      for (const auto& [in, out] : {std::pair{16, 16}, std::pair{1000, 37}, std::pair{257, 3}, std::pair{4096, 64}}) {
        const Fp8Weight weight{.values = RandomE4m3(out, in, 6), .scale = Random({out, 1}, 7).abs()};
        const at::Tensor x = RandomE4m3(rows, in, 8);
        const at::Tensor expected =
            at::mm(x.to(at::kDouble), weight.values.to(at::kDouble).t()) * weight.scale.to(at::kDouble).t();
        const at::Tensor y = CpuFp8Product(x, weight);
        EXPECT_TRUE(y.equal(expected.to(at::kFloat))) << rows << " rows, " << in << " -> " << out;
        EXPECT_TRUE(y.equal(ExactFp8Product(x, weight))) << rows << " rows, " << in << " -> " << out;
      }
    }
  }
}

TEST(Fp8Product, BlocksAreWeighedByTheirScales) {
  for (const SimdLevel level : SimdLevels()) {
    const ScopedSimdLevel scoped(level);
    for (const int64_t in : {128, 200, 1024}) {
      Fp8Weight weight = EmptyFp8Weight(37, in, at::kCPU, /*blocks=*/true);
      weight.values.copy_(RandomE4m3(37, in, 9));
      weight.scale.copy_(Random(weight.scale.sizes(), 10).abs());
      const at::Tensor x = RandomE4m3(9, in, 11);
      at::Tensor plain = at::empty({37, in}, at::kDouble);
      DequantizeWeight(weight, plain);
      const at::Tensor expected = at::mm(x.to(at::kDouble), plain.t());
      // value * scale is rounded to float32 when dequantised, but not here.
      EXPECT_LT(RelativeError(CpuFp8Product(x, weight), expected), 1e-6);
      EXPECT_LT(RelativeError(ExactFp8Product(x, weight), expected), 1e-6);
    }
  }
}

TEST(Fp8Linear, EmulatedGivesTheSameBitsOnEveryDeviceAndForEveryNeighbour) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    Fp8Weight weight = Quantized(Random({96, 160}, 12, dtype), Fp8Scaling::kRow);
    weight.emulate = true;
    const at::Tensor x = Random({70, 160}, 13, dtype), bias = Random({96}, 14, dtype);
    const at::Tensor all = Fp8Linear(x, weight, bias);
    ASSERT_EQ(all.scalar_type(), dtype);
    EXPECT_TRUE(Fp8Linear(x.narrow(0, 3, 1), weight, bias).equal(all.narrow(0, 3, 1))) << dtype;
    for (const at::Device device : Devices()) {
      const at::Tensor there = Fp8Linear(x.to(device), Moved(weight, device), bias.to(device));
      EXPECT_TRUE(there.to(at::kCPU).equal(all)) << device << " " << dtype;
    }
  }
}

// A value of e4m3 has three binary digits behind its first: rounding moves it by up to 1/16, by 2.6 % in the mean
// square. Weights and activations are rounded independently: 3.7 %.
TEST(Fp8Linear, IsWithinTheErrorOfTheFormat) {
  for (const Fp8Scaling scaling : {Fp8Scaling::kTensor, Fp8Scaling::kRow}) {
    const at::Tensor matrix = Random({256, 512}, 15), x = Random({40, 512}, 16), bias = Random({256}, 17);
    Fp8Weight weight = Quantized(matrix, scaling);
    weight.emulate = true;
    const at::Tensor expected = at::linear(x, matrix, bias).to(at::kDouble);
    const double error = RelativeError(Fp8Linear(x, weight, bias), expected);
    EXPECT_LT(error, 0.045);
    EXPECT_GT(error, 0.02);  // else nothing was rounded
  }
}

TEST(Fp8Linear, TheDevicesGemmGivesWhatIsEmulatedButForItsRounding) {
  for (const at::Device device : Devices()) {
    if (!WhyNoFp8Gemm(device).empty()) continue;
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      for (const bool blocks : {false, true}) {
        Fp8Weight weight = EmptyFp8Weight(384, 512, device, blocks);
        weight.values.copy_(Random({384, 512}, 18).mul_(100));
        weight.scale.copy_(Random({3, weight.scale.size(1)}, 19).abs().repeat_interleave(128, 0));
        for (const int64_t rows : {1, 5, 64, 200, 300}) {
          const at::Tensor x = Random({rows, 512}, 20, dtype).to(device), bias = Random({384}, 21, dtype).to(device);
          weight.emulate = true;
          const at::Tensor expected = Fp8Linear(x, weight, bias).to(at::kCPU).to(at::kDouble);
          weight.emulate = false;
          // Sums and results in bfloat16: 2^-9 each; Hopper's sums keep 13 digits.
          EXPECT_LT(RelativeError(Fp8Linear(x, weight, bias), expected), 4e-3) << dtype << " " << rows << " " << blocks;
        }
      }
    }
  }
}

TEST(Fp8Linear, ADeviceWithoutGemmSaysSo) { EXPECT_EQ(WhyNoFp8Gemm(at::kCPU), "cpu has no FP8 GEMM"); }

TEST(Fp8Linear, WrongShapesAreErrorsAndNoRowsAreNone) {
  Fp8Weight weight = Quantized(Random({16, 32}, 22), Fp8Scaling::kRow);
  weight.emulate = true;
  EXPECT_THROW(Fp8Linear(at::zeros({2, 31}), weight, {}), c10::Error);
  EXPECT_THROW(Fp8Linear(at::zeros({32}), weight, {}), c10::Error);
  EXPECT_EQ(Fp8Linear(at::zeros({0, 32}), weight, {}).sizes(), at::IntArrayRef({0, 16}));
}

}  // namespace
}  // namespace automodeld
