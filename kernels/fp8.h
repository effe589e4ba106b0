// Linear weights in float8_e4m3fn: how they are quantised, and how they are multiplied.
//
//   Fp8Weight weight = EmptyFp8Weight(out, in, options);
//   QuantizeWeight(matrix, Fp8Scaling::kTensor, weight);    // or kRow
//   at::Tensor y = Fp8Linear(x, weight, bias);              // x [tokens, in] -> y [tokens, out], of x's dtype
//
// A weight is values * scale, a float32 scale per row (an output channel), so that one multiplication serves every
// recipe: the scale of a whole tensor is repeated. Checkpoints whose scales stand for 128 x 128 blocks have one for
// every 128 inputs of a row. Activations are quantised row by row when they are multiplied. Follows torchao's float8
// linear.
#ifndef KERNELS_FP8_H_
#define KERNELS_FP8_H_

#include <ATen/ATen.h>

#include <optional>
#include <string>

#include "kernels/linear_input.h"

namespace automodeld {

inline constexpr int64_t kFp8Block = 128;
inline constexpr double kMaxE4m3 = 448.0;  // the largest value of float8_e4m3fn

struct Fp8Weight {
  at::Tensor values;     // [out, in] float8_e4m3fn
  at::Tensor scale;      // float32 [out, 1], or [out, ceil(in / 128)]: one for every 128 inputs
  bool emulate = false;  // multiply exactly, in double, instead of by the device's FP8 GEMM
};

enum class Fp8Scaling { kTensor, kRow };

// Not filled in yet; `blocks`: a scale for every 128 inputs.
Fp8Weight EmptyFp8Weight(int64_t out, int64_t in, at::Device device, bool blocks = false);

// Fills `to` (of one scale per row) from a matrix of any float type: scale = max |w| / 448 of the tensor or the row, at
// least 1e-12; values = w / scale, rounded to nearest even. Takes a few MiB besides.
void QuantizeWeight(const at::Tensor& weight, Fp8Scaling scaling, Fp8Weight to);

// values * scale into `out` [out, in] of any float type. Takes a few MiB besides.
void DequantizeWeight(const Fp8Weight& weight, at::Tensor out);

// Empty where the device multiplies FP8; else why it cannot, such as "cpu has no FP8 GEMM". Throws
// c10::OutOfMemoryError where there is no memory to find out.
std::string WhyNoFp8Gemm(at::Device device);

// y = act(x W^T + bias). Plain rows of x are quantised as QuantizeRows does; the sum of products, each weighed by its
// block's scale, is multiplied by the row's scale and the channel's in float32, and the bias added there.
//   emulated   the sum of products is exact, and thus the same number on every device
//   on Hopper  up to 64 rows by our own kernel: sums of 128 products by the tensor cores, those added in float32
//   else       the library's FP8 GEMM: sums in bfloat16 for a bfloat16 x or scales of blocks, else in float32; on
//              Hopper, above 128 rows of bfloat16, it takes the scales and the bias, too
// x: [tokens, in], of float32, bfloat16 or float16 when plain; bias: [out]; y is of x's dtype; `activation` as
// RunLinear. The GEMM takes out and in in sixteens; with scales of blocks, out in multiples of 128 and in of 512.
at::Tensor Fp8Linear(const LinearInput& x, const Fp8Weight& weight, const std::optional<at::Tensor>& bias,
                     const std::string& activation = "");

// x as quantised rows: by the device's own kernel where this build has one, else as eager::QuantizeRows does, with the
// same values either way.
LinearInput QuantizeRows(const at::Tensor& x);
inline LinearInput QuantizedIf(bool quantize, const at::Tensor& x) {
  return quantize ? QuantizeRows(x) : LinearInput(x);
}

// The sums of products that Fp8Linear emulates, by plain ATen on any device: the definition.
// x: [tokens, in] float8_e4m3fn; result: [tokens, out] float32.
at::Tensor ExactFp8Product(const at::Tensor& x, const Fp8Weight& weight);

}  // namespace automodeld

#endif  // KERNELS_FP8_H_
