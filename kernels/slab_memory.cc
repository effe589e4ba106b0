#include "kernels/slab_memory.h"

#include "kernels/cpu/slab_memory.h"
#ifdef AUTOMODELD_CUDA
#include "kernels/cuda/vmm.h"
#endif

namespace automodeld {

std::unique_ptr<SlabMemory> MakeSlabMemory(c10::Device device) {
  if (device.is_cpu()) return MakeCpuSlabMemory();
#ifdef AUTOMODELD_CUDA
  if (device.is_cuda()) return MakeCudaSlabMemory(device);
#endif
  return nullptr;
}

}  // namespace automodeld
