// DeviceGraphs by CUDA graphs. Part of kernels/device_graph.cc.
#ifndef KERNELS_CUDA_DEVICE_GRAPH_H_
#define KERNELS_CUDA_DEVICE_GRAPH_H_

#include <memory>

#include "kernels/device_graph.h"

namespace automodeld {

std::unique_ptr<DeviceGraphs> MakeCudaGraphs();

}  // namespace automodeld

#endif  // KERNELS_CUDA_DEVICE_GRAPH_H_
