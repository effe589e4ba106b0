// y = act(x W^T + bias) for 1 to 64 rows of x on a Hopper GPU, at the speed at which W is read; and what follows the
// library's FP8 product of more rows.
//
//   if (TakesSkinnyLinear(x.values, weight)) y = SkinnyLinear(x, weight, /*weight_scale=*/{}, bias, "silu");
//
// In e4m3 the sums are multiplied by the row's and the column's scale, in float32; nothing else is launched. The same
// bits at every run; a row's value depends on no other row, and on their number only through its next power of two.
// On the current stream, and may be recorded in a CUDA graph. A build without CUDA takes nothing.
#ifndef KERNELS_CUDA_SKINNY_LINEAR_H_
#define KERNELS_CUDA_SKINNY_LINEAR_H_

#include <ATen/ATen.h>

#include <optional>
#include <string>

#include "kernels/linear_input.h"

namespace automodeld {

// Whether the device is a GPU of compute capability 9.0, and this build has code for it.
bool IsHopper(at::Device device);

// Whether there is a kernel for these: x [rows, in] and weight [out, in] of one type, float8_e4m3fn, bfloat16 or
// float16, on a GPU that IsHopper; rows of the weight of a multiple of 16 bytes.
bool TakesSkinnyLinear(const at::Tensor& x, const at::Tensor& weight);

// weight_scale: float32 [out, 1] of an e4m3 weight, else undefined; bias: [out]; `activation` as RunLinear.
// Result: [rows, out] of x.dtype. Throws c10::Error on a wrong shape or type.
at::Tensor SkinnyLinear(const LinearInput& x, const at::Tensor& weight, const at::Tensor& weight_scale,
                        const std::optional<at::Tensor>& bias, const std::string& activation);

// Whether ScaleProduct takes a product [rows, out]: bfloat16 or float32 on a GPU, dense, out a multiple of 8.
bool TakesScaleProduct(const at::Tensor& product);

// y = act(product * row_scale * column_scale + bias), in float32 and then rounded to `dtype`; row_scale [rows, 1] and
// column_scale [out, 1] float32, bias [out]. In product's place if its type is `dtype`.
at::Tensor ScaleProduct(const at::Tensor& product, const at::Tensor& row_scale, const at::Tensor& column_scale,
                        const std::optional<at::Tensor>& bias, const std::string& activation, at::ScalarType dtype);

}  // namespace automodeld

#endif  // KERNELS_CUDA_SKINNY_LINEAR_H_
