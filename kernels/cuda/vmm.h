// SlabMemory by CUDA's virtual memory management. Part of kernels/slab_memory.cc.
#ifndef KERNELS_CUDA_VMM_H_
#define KERNELS_CUDA_VMM_H_

#include <memory>

#include "kernels/slab_memory.h"

namespace automodeld {

// Null where the driver has no virtual memory management.
std::unique_ptr<SlabMemory> MakeCudaSlabMemory(c10::Device device);

}  // namespace automodeld

#endif  // KERNELS_CUDA_VMM_H_
