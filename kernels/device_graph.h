// Device work recorded once and launched again as one: a CUDA graph. Launching costs what one kernel's launch costs,
// however many kernels are in it.
//
//   const std::unique_ptr<DeviceGraphs> graphs = MakeDeviceGraphs(device);   // null: this device records nothing
//   at::Tensor y;
//   auto graph = graphs->Record([&] { y = model.Forward(in); });   // launches nothing
//   in.token_ids.copy_(...);                                       // graphs read and write the recorded addresses
//   graph->Launch();                                               // on the current stream; y is written
#ifndef KERNELS_DEVICE_GRAPH_H_
#define KERNELS_DEVICE_GRAPH_H_

#include <c10/core/Device.h>

#include <functional>
#include <memory>

namespace automodeld {

class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  virtual void Launch() = 0;
};

// Graphs that share the memory of their intermediate results: launched one after the other, on one stream.
class DeviceGraphs {
 public:
  virtual ~DeviceGraphs() = default;
  // Records what `work` launches on the current stream, which must not be the device's default one. `work` may not
  // synchronise; what it does lazily at its first call (loading kernels, workspaces) should have been done before.
  // Other threads may use the device meanwhile. Throws c10::Error where something cannot be recorded.
  virtual std::unique_ptr<DeviceGraph> Record(const std::function<void()>& work) = 0;
};

std::unique_ptr<DeviceGraphs> MakeDeviceGraphs(c10::Device device);

}  // namespace automodeld

#endif  // KERNELS_DEVICE_GRAPH_H_
