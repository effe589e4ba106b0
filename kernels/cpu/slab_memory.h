// SlabMemory by mmap. Part of kernels/slab_memory.cc.
#ifndef KERNELS_CPU_SLAB_MEMORY_H_
#define KERNELS_CPU_SLAB_MEMORY_H_

#include <memory>

#include "kernels/slab_memory.h"

namespace automodeld {

std::unique_ptr<SlabMemory> MakeCpuSlabMemory();

}  // namespace automodeld

#endif  // KERNELS_CPU_SLAB_MEMORY_H_
