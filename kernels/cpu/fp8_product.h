// Exact sums of products of float8_e4m3fn on the CPU.
#ifndef KERNELS_CPU_FP8_PRODUCT_H_
#define KERNELS_CPU_FP8_PRODUCT_H_

#include <ATen/ATen.h>

#include "kernels/fp8.h"

namespace automodeld {

// As ExactFp8Product, to the bit where there is one scale per row; where there are several, their sum may round once
// more or less in double. A row of the result has the same bits whatever the other rows are.
at::Tensor CpuFp8Product(const at::Tensor& x, const Fp8Weight& weight);

}  // namespace automodeld

#endif  // KERNELS_CPU_FP8_PRODUCT_H_
