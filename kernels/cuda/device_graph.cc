// libtorch's own capture, because its allocator must know that memory handed out meanwhile belongs to a graph.
#include "kernels/cuda/device_graph.h"

#include <ATen/cuda/CUDAGraph.h>

namespace automodeld {
namespace {

class CudaGraph final : public DeviceGraph {
 public:
  CudaGraph(c10::MempoolId_t pool, const std::function<void()>& work) {
    // Thread-local: other threads' cudaMalloc would end a capture in the default mode.
    graph_.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      EndQuietly();
      throw;
    }
    graph_.capture_end();
  }

  void Launch() override { graph_.replay(); }

 private:
  // The stream and the allocator leave capture even where what was captured is no use.
  void EndQuietly() {
    try {
      graph_.capture_end();
    } catch (const c10::Error&) {
      cudaGetLastError();  // the capture's own failure, or the next call reports it
    }
  }

  at::cuda::CUDAGraph graph_;
};

class CudaGraphs final : public DeviceGraphs {
 public:
  std::unique_ptr<DeviceGraph> Record(const std::function<void()>& work) override {
    return std::make_unique<CudaGraph>(pool_, work);
  }

 private:
  const c10::MempoolId_t pool_ = at::cuda::graph_pool_handle();
};

}  // namespace

std::unique_ptr<DeviceGraphs> MakeCudaGraphs() { return std::make_unique<CudaGraphs>(); }

}  // namespace automodeld
