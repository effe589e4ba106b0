// QuantizeRows (kernels/fp8.h) on a GPU, in one kernel.
#ifndef KERNELS_CUDA_QUANTIZE_H_
#define KERNELS_CUDA_QUANTIZE_H_

#include "kernels/linear_input.h"

namespace automodeld {

// x: [rows, width] on a GPU, of any float type; bit for bit what eager::QuantizeRows gives.
LinearInput CudaQuantizeRows(const at::Tensor& x);

}  // namespace automodeld

#endif  // KERNELS_CUDA_QUANTIZE_H_
