// What ops quantise on the way has the bits that eager makes of the same rows, on every device.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/dispatch.h"
#include "kernels/eager/eager.h"
#include "kernels/fp8.h"
#include "kernels/registry.h"
#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

struct Rows {
  int64_t rows, width;
  bool strided = false, misaligned = false;
};

// Around the borders of what a GPU's kernels keep in registers, in a block and in a cluster of blocks.
const std::vector<Rows> kRows = {{1, 64},
                                 {3, 1},
                                 {5, 129},
                                 {2, 4099},
                                 {1, 4096},
                                 {200, 1024},
                                 {3, 1536},
                                 {9, 4096},
                                 {2, 8192},
                                 {2, 16384},
                                 {2, 16392},
                                 {2, 20480},
                                 {1, 65544},
                                 {1, 14336},
                                 {130, 14336},
                                 {140, 20480},
                                 {129, 4104},
                                 {7, 384, true},
                                 {7, 33, true},
                                 {150, 384, true},
                                 {4, 1024, false, true},
                                 {3, 77, false, true}};

at::Tensor Make(SampleTensors& make, const Rows& c, int64_t columns_per_width = 1) {
  const std::vector<int64_t> sizes = {c.rows, columns_per_width * c.width};
  if (c.strided) return make.Strided(sizes);
  return c.misaligned ? make.Misaligned(sizes) : make.Normal(sizes);
}

// NaN is equal to NaN.
void ExpectSameBits(const LinearInput& got, const at::Tensor& rows) {
  const auto [values, scale] = eager::QuantizeRows(rows, /*quantize=*/true);
  ASSERT_EQ(got.values.scalar_type(), at::kFloat8_e4m3fn);
  ASSERT_EQ(got.values.sizes(), rows.sizes());
  ASSERT_EQ(got.scale.sizes(), scale.sizes());
  EXPECT_TRUE(at::allclose(got.scale, scale, 0, 0, /*equal_nan=*/true));
  EXPECT_TRUE(at::equal(got.values.view(at::kByte), values.view(at::kByte)))
      << got.values.view(at::kByte).ne(values.view(at::kByte)).sum().item<int64_t>() << " values differ";
}

std::string Name(const Rows& c, const at::Device& device, at::ScalarType dtype) {
  std::string name = device.str() + " " + c10::toString(dtype) + " " + std::to_string(c.rows) + " x ";
  return name + std::to_string(c.width) + (c.strided ? ", strided" : c.misaligned ? ", misaligned" : "");
}

// Calls check(ops, make, c) for every device, type and case.
template <typename Check>
void ForEveryCase(Check check) {
  for (const at::Device& device : Devices()) {
    for (const at::ScalarType dtype : FusedDtypes()) {
      const Ops ops = FindFusedOps(EagerOps(), OpNames(), device, dtype).ops;
      for (const Rows& c : kRows) {
        SCOPED_TRACE(Name(c, device, dtype));
        SampleTensors make(device, dtype, dtype);
        check(ops, make, c);
      }
    }
  }
}

// The quantised result against the plain one, and the same residual from both.
void ExpectSameNorm(const NormResult& quantized, const NormResult& plain) {
  ExpectSameBits({std::get<0>(quantized), std::get<1>(quantized), at::kFloat}, std::get<0>(plain));
  EXPECT_TRUE(at::equal(std::get<2>(quantized), std::get<2>(plain)));
}

TEST(QuantizedRows, HaveTheBitsOfEager) {
  ForEveryCase([](const Ops&, SampleTensors& make, const Rows& c) {
    const at::Tensor x = Make(make, c);
    ExpectSameBits(QuantizeRows(x), x);
  });
}

TEST(QuantizedRows, OfRmsNormAreItsPlainRowsQuantized) {
  ForEveryCase([](const Ops& ops, SampleTensors& make, const Rows& c) {
    const at::Tensor x = Make(make, c), residual = Make(make, c), weight = make.Normal({c.width});
    ExpectSameNorm(ops.rms_norm(x, std::nullopt, weight, 1e-6, true),
                   ops.rms_norm(x, std::nullopt, weight, 1e-6, false));
    ExpectSameNorm(ops.rms_norm(x, residual, weight, 1e-6, true), ops.rms_norm(x, residual, weight, 1e-6, false));
  });
}

TEST(QuantizedRows, OfLayerNormAreItsPlainRowsQuantized) {
  ForEveryCase([](const Ops& ops, SampleTensors& make, const Rows& c) {
    const at::Tensor x = Make(make, c), residual = Make(make, c);
    const at::Tensor weight = make.Normal({c.width}), bias = make.Normal({c.width});
    ExpectSameNorm(ops.layer_norm(x, residual, weight, bias, 1e-5, true),
                   ops.layer_norm(x, residual, weight, bias, 1e-5, false));
  });
}

TEST(QuantizedRows, OfActMulAreItsPlainRowsQuantized) {
  ForEveryCase([](const Ops& ops, SampleTensors& make, const Rows& c) {
    const at::Tensor gate_up = Make(make, c, 2);
    for (const std::string activation : {"silu", "gelu", "gelu_tanh"}) {
      const auto [values, scale] = ops.act_mul(gate_up, activation, true);
      ExpectSameBits({values, scale, at::kFloat}, std::get<0>(ops.act_mul(gate_up, activation, false)));
    }
  });
}

// Zeros keep their signs, the smallest scale is 1e-12, an infinity makes numbers zeros, NaN takes its whole row.
TEST(QuantizedRows, OfExtremesHaveTheBitsOfEager) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::vector<double> largest = {0.0, -0.0, 1e-40, 1e-13, 1e-8, 60000.0, kInfinity, -kInfinity, std::nan("")};
  for (const at::Device& device : Devices()) {
    for (const at::ScalarType dtype : FusedDtypes()) {
      for (const int64_t width : {64, 99, 4096}) {
        SampleTensors make(device, dtype, dtype);
        at::Tensor x = make.Normal({static_cast<int64_t>(largest.size()), width});
        x.slice(1, 0, std::nullopt, 5).zero_();
        x.slice(1, 1, std::nullopt, 5).zero_().neg_();
        for (size_t i = 0; i < largest.size(); ++i) {
          at::Tensor row = x.select(0, static_cast<int64_t>(i));
          if (std::abs(largest[i]) < 1) row.mul_(largest[i]);
          row[width / 2] = largest[i];
        }
        SCOPED_TRACE(Name({x.size(0), width}, device, dtype));
        ExpectSameBits(QuantizeRows(x), x);
      }
    }
  }
}

// Quotients on and around the borders between two values.
TEST(QuantizedRows, RoundAsADivisionDoes) {
  for (const at::Device& device : Devices()) {
    SampleTensors make(device, at::kFloat, at::kFloat);
    const at::Tensor scales = make.Float({512, 1}).add_(0.5);
    const at::Tensor borders = make.Integers({512, 2048}, 64).to(at::kFloat).add_(0.5).mul_(7);
    at::Tensor x = borders * scales;
    x.mul_(make.Integers({512, 2048}, 3).to(at::kFloat).sub_(1).mul_(6e-8).add_(1));
    x.select(1, 0).copy_(scales.select(1, 0) * 448);
    ExpectSameBits(QuantizeRows(x), x);
    const at::Tensor half = x.to(at::kBFloat16);
    ExpectSameBits(QuantizeRows(half), half);
  }
}

}  // namespace
}  // namespace automodeld
