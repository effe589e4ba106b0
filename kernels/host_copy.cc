#include "kernels/host_copy.h"

#ifdef AUTOMODELD_CUDA
#include "kernels/cuda/host_copy.h"
#endif

namespace automodeld {

void QueueCopy(const at::Tensor& from, const at::Tensor& to) {
  TORCH_CHECK(from.nbytes() == to.nbytes() && from.is_contiguous() && to.is_contiguous(), "copy of ", from.sizes(), " ",
              from.scalar_type(), " to ", to.sizes(), " ", to.scalar_type());
#ifdef AUTOMODELD_CUDA
  if (TakesCudaHostCopy(from, to)) return CudaHostCopy(from, to);
#endif
  to.copy_(from, /*non_blocking=*/true);
}

}  // namespace automodeld
