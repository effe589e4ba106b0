// Copies between pinned host memory and a device: what a step needs of the host, and gives back.
//
//   at::Tensor host = at::empty({n}, at::TensorOptions(at::kInt).pinned_memory(true));
//   QueueCopy(host, device_tensor);   // on the current stream; `host` may be let go of at once, but not written
//
// A GPU copies little by a kernel that reads or writes the host's memory itself: a copy engine takes some microseconds
// to begin and to hand over to the next kernel, at every step.
#ifndef KERNELS_HOST_COPY_H_
#define KERNELS_HOST_COPY_H_

#include <ATen/ATen.h>

namespace automodeld {

// Of as many bytes, both dense; one lies on a device, the other in pinned memory of the host. Asynchronous.
void QueueCopy(const at::Tensor& from, const at::Tensor& to);

}  // namespace automodeld

#endif  // KERNELS_HOST_COPY_H_
