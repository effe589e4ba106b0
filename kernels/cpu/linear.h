// Linear layers on the CPU where libtorch is slow: few rows of any type, and 16-bit weights on processors without
// 16-bit arithmetic (there libtorch 2.11 reaches a tenth of its float32 speed); and where its sums depend on the number
// of rows: float32.
#ifndef KERNELS_CPU_LINEAR_H_
#define KERNELS_CPU_LINEAR_H_

#include <ATen/ATen.h>

#include <optional>

namespace automodeld {

// Whether CpuLinear takes these and is faster than at::linear here.
bool IsForCpuLinear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

// y = x W^T + bias with float32 sums; x [rows, in] and weight [out, in] of one dtype, dense. In float32 and
// up to 16 rows of any type, a row of y has the same bits whatever the other rows are.
at::Tensor CpuLinear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

}  // namespace automodeld

#endif  // KERNELS_CPU_LINEAR_H_
