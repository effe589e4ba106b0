// The products of few rows on a Hopper GPU; elsewhere these tests are skipped.
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <gtest/gtest.h>

#include <limits>

#include "kernels/cuda/skinny_linear.h"
#include "kernels/linear.h"
#include "tests/kernels/poisoned_memory.h"

namespace automodeld {
namespace {

const at::Device kGpu(at::kCUDA, 0);

class SkinnyLinear : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA() || !IsHopper(kGpu)) GTEST_SKIP() << "no Hopper GPU";
    at::manual_seed(1);
  }
};

at::Tensor Random(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::randn(sizes, at::TensorOptions(at::kFloat).device(kGpu)).to(dtype);
}

// A weight to multiply by, and the same as plain numbers.
struct Case {
  LinearWeight weight;
  at::Tensor plain;  // [out, in] float64
};

Case MakeCase(int64_t out, int64_t in, bool fp8, at::ScalarType dtype) {
  if (!fp8) {
    const at::Tensor weight = Random({out, in}, dtype);
    return {weight, weight.to(at::kDouble)};
  }
  const Fp8Weight weight{.values = Random({out, in}, at::kFloat).mul_(40).to(at::kFloat8_e4m3fn),
                         .scale = Random({out, 1}, at::kFloat).abs_().add_(0.1)};
  return {weight, weight.values.to(at::kDouble) * weight.scale.to(at::kDouble)};
}

at::Tensor Expected(const LinearInput& x, const at::Tensor& plain) {
  at::Tensor wide = x.values.to(at::kDouble);
  if (x.quantized()) wide = wide * x.scale.to(at::kDouble);
  return at::mm(wide, plain.t());
}

at::Tensor OnPoisonedMemory(const LinearInput& x, const LinearWeight& weight) {
  const PoisonedMemory poisoned;
  return RunLinear(x, weight);
}

// Rounding of the result; in e4m3 the tensor cores keep 13 digits of a sum of 128 products.
double Tolerance(at::ScalarType dtype) { return dtype == at::kBFloat16 ? 4e-3 : 6e-4; }

void ExpectNear(const at::Tensor& y, const at::Tensor& expected, double tolerance, const std::string& what) {
  const at::Tensor error = (y.to(at::kDouble) - expected).abs();
  const double scale = expected.abs().max().item<double>();
  EXPECT_LT(error.max().item<double>(), 2 * tolerance * scale) << what;  // NaN fails
  EXPECT_LT((error.norm() / expected.norm()).item<double>(), tolerance) << what;
}

TEST_F(SkinnyLinear, IsNotMissing) { EXPECT_EQ(MissingKernels(kGpu), ""); }

using Shape = std::pair<int64_t, int64_t>;  // out, in
class SkinnyLinearOfShape : public SkinnyLinear, public testing::WithParamInterface<Shape> {};

TEST_P(SkinnyLinearOfShape, GivesTheProductForEveryType) {
  const auto [out, in] = GetParam();
  for (const bool fp8 : {true, false}) {
    for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf, at::kFloat}) {
      if (!fp8 && dtype == at::kFloat) continue;
      const Case c = MakeCase(out, in, fp8, dtype);
      for (const int64_t rows : {1, 2, 3, 5, 8, 9, 16, 17, 31, 32, 33, 48, 63, 64}) {
        const at::Tensor plain = Random({rows, in}, dtype);
        const LinearInput x = fp8 ? QuantizeRows(plain) : LinearInput(plain);
        const at::Tensor y = OnPoisonedMemory(x, c.weight);
        ASSERT_EQ(y.scalar_type(), dtype);
        ExpectNear(y, Expected(x, c.plain), Tolerance(dtype), std::to_string(rows) + (fp8 ? " rows in FP8" : " rows"));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Of, SkinnyLinearOfShape,
                         testing::Values(Shape(64, 128), Shape(1000, 272), Shape(33, 16), Shape(321, 144),
                                         Shape(4096, 4096), Shape(1026, 14336), Shape(70001, 64)),
                         [](const auto& shape) {
                           return std::to_string(shape.param.first) + "x" + std::to_string(shape.param.second);
                         });

TEST_F(SkinnyLinear, MoreRowsGoThroughTheLibraryWithTheSameResult) {
  for (const bool fp8 : {true, false}) {
    for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf, at::kFloat}) {
      const Case c = MakeCase(512, 768, fp8, dtype);
      const at::Tensor bias = Random({512}, dtype);
      for (const int64_t rows : {65, 100, 130, 256, 257, 600, 16384}) {
        const at::Tensor plain = Random({rows, 768}, dtype);
        const LinearInput x = fp8 ? QuantizeRows(plain) : LinearInput(plain);
        const at::Tensor expected = at::silu(Expected(x, c.plain) + bias.to(at::kDouble));
        // Up to three roundings.
        ExpectNear(RunLinear(x, c.weight, bias, "silu"), expected, 2 * Tolerance(dtype), std::to_string(rows));
      }
    }
  }
}

TEST_F(SkinnyLinear, AddsTheBiasAndAppliesTheActivation) {
  for (const bool fp8 : {true, false}) {
    const Case c = MakeCase(515, 1024, fp8, at::kBFloat16);
    const at::Tensor bias = Random({515}, at::kBFloat16);
    for (const std::string activation : {"", "relu", "silu", "gelu", "gelu_tanh"}) {
      for (const int64_t rows : {1, 40}) {
        const at::Tensor plain = Random({rows, 1024}, at::kBFloat16).mul_(0.02);
        const LinearInput x = fp8 ? QuantizeRows(plain) : LinearInput(plain);
        const at::Tensor sum = Expected(x, c.plain) + bias.to(at::kDouble);
        const at::Tensor expected = activation.empty() ? sum : Activate(sum, activation);
        ExpectNear(RunLinear(x, c.weight, bias, activation), expected, 4e-3, activation);
        ExpectNear(RunLinear(x, c.weight, bias.to(at::kFloat), activation), expected, 4e-3, activation);
      }
    }
  }
}

TEST_F(SkinnyLinear, RowsMayLieApartAndAnywhere) {
  const at::Tensor wide = Random({20, 1100}, at::kBFloat16), weight = Random({96, 512}, at::kBFloat16);
  for (const int64_t first : {0, 1, 8, 13}) {
    const at::Tensor x = wide.narrow(1, first, 512);
    ExpectNear(RunLinear(x, weight), Expected(x, weight.to(at::kDouble)), 4e-3, std::to_string(first));
    const at::Tensor turned = wide.narrow(1, first, 20).narrow(0, 0, 20).t();
    const at::Tensor narrow = weight.narrow(1, 0, 24).narrow(1, 0, 20);  // rows of 40 bytes: for the library
    ExpectNear(RunLinear(turned, narrow), Expected(turned, narrow.to(at::kDouble)), 4e-3, std::to_string(first));
  }
}

TEST_F(SkinnyLinear, GivesTheSameBitsAgainAndWhateverTheOtherRows) {
  for (const bool fp8 : {true, false}) {
    for (const auto& [out, in] : {std::pair{4096, 4096}, {6144, 1024}, {200, 14336}}) {
      const Case c = MakeCase(out, in, fp8, at::kBFloat16);
      const at::Tensor x = Random({64, in}, at::kBFloat16);
      const auto run = [&](const at::Tensor& rows) {
        return RunLinear(fp8 ? QuantizeRows(rows) : LinearInput(rows), c.weight);
      };
      for (const int64_t rows : {5, 12, 40, 64}) {
        const at::Tensor y = run(x.narrow(0, 0, rows));
        EXPECT_TRUE(run(x.narrow(0, 0, rows)).equal(y));
        at::Tensor others = Random({rows, in}, at::kBFloat16).mul_(100);
        others.select(0, rows / 2).copy_(x.select(0, rows / 2));
        EXPECT_TRUE(run(others).select(0, rows / 2).equal(y.select(0, rows / 2))) << rows;
      }
    }
  }
}

TEST_F(SkinnyLinear, CanBeRecordedInAGraph) {
  const Case first = MakeCase(2048, 1024, true, at::kBFloat16), second = MakeCase(1024, 2048, false, at::kBFloat16);
  const at::Tensor x = Random({7, 1024}, at::kBFloat16);
  const LinearInput rows = QuantizeRows(x);
  const auto run = [&] { return RunLinear(RunLinear(rows, first.weight, std::nullopt, "relu"), second.weight); };
  run();
  at::cuda::CUDAGraph graph;
  at::Tensor y;
  {
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
    graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    y = run();
    graph.capture_end();
  }
  for (int i = 0; i < 3; ++i) {
    const LinearInput fresh = QuantizeRows(Random({7, 1024}, at::kBFloat16));
    rows.values.copy_(fresh.values);
    rows.scale.copy_(fresh.scale);
    y.fill_(std::numeric_limits<float>::quiet_NaN());
    at::cuda::getCurrentCUDAStream().synchronize();
    graph.replay();
    at::cuda::device_synchronize();
    EXPECT_TRUE(y.equal(run()));
  }
}

TEST_F(SkinnyLinear, WrongShapesAreErrors) {
  const at::Tensor x = Random({3, 64}, at::kBFloat16), weight = Random({32, 64}, at::kBFloat16);
  EXPECT_THROW(RunLinear(x, weight, Random({31}, at::kBFloat16)), c10::Error);
  EXPECT_THROW(RunLinear(x, Random({32, 72}, at::kBFloat16)), c10::Error);
  EXPECT_THROW(RunLinear(x, weight, std::nullopt, "tanh"), c10::Error);
}

}  // namespace
}  // namespace automodeld
