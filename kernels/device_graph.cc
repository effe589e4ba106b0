#include "kernels/device_graph.h"

#ifdef AUTOMODELD_CUDA
#include "kernels/cuda/device_graph.h"
#endif

namespace automodeld {

std::unique_ptr<DeviceGraphs> MakeDeviceGraphs([[maybe_unused]] c10::Device device) {
#ifdef AUTOMODELD_CUDA
  if (device.is_cuda()) return MakeCudaGraphs();
#endif
  return nullptr;
}

}  // namespace automodeld
