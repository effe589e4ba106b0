// QueueCopy by a kernel. Part of kernels/host_copy.cc.
#ifndef KERNELS_CUDA_HOST_COPY_H_
#define KERNELS_CUDA_HOST_COPY_H_

#include <ATen/ATen.h>

namespace automodeld {

// Whether one lies on a GPU, the other in pinned memory, and both are small and on borders of 8 bytes.
bool TakesCudaHostCopy(const at::Tensor& from, const at::Tensor& to);
void CudaHostCopy(const at::Tensor& from, const at::Tensor& to);

}  // namespace automodeld

#endif  // KERNELS_CUDA_HOST_COPY_H_
