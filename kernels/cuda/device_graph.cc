// Not at::cuda::CUDAGraph: where a capture fails, that leaves libtorch's allocator in it.
#include "kernels/cuda/device_graph.h"

#include <ATen/cuda/MemPool.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include <utility>

namespace automodeld {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

// Where graphs have their memory. libtorch's allocator wants as many releases as there were captures, and none before
// the pool has seen its last one.
class GraphPool {
 public:
  GraphPool() : device_(c10::cuda::current_device()), id_(at::cuda::MemPool::graph_pool_handle()) {}
  ~GraphPool() {
    for (int i = 0; i < captures_; ++i) allocator::releasePool(device_, id_);
  }
  GraphPool(const GraphPool&) = delete;
  GraphPool& operator=(const GraphPool&) = delete;

  // Until End, memory for `stream` comes from here.
  void Begin(cudaStream_t stream) {
    allocator::beginAllocateToPool(device_, id_, [stream](cudaStream_t other) { return other == stream; });
    ++captures_;
  }
  void End() { allocator::endAllocateToPool(device_, id_); }

 private:
  const c10::DeviceIndex device_;
  const c10::MempoolId_t id_;
  int captures_ = 0;
};

// What `work` launches on the current stream.
cudaGraph_t Capture(const std::function<void()>& work) {
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  cudaGraph_t graph = nullptr;
  // Thread-local: other threads' cudaMalloc would end a capture in the default mode.
  C10_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  try {
    work();
  } catch (...) {
    if (cudaStreamEndCapture(stream, &graph) != cudaSuccess) cudaGetLastError();  // what made `work` throw says more
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  C10_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  return graph;
}

// What `work` launches, its memory from the pool.
cudaGraph_t CaptureInto(GraphPool& pool, const std::function<void()>& work) {
  pool.Begin(c10::cuda::getCurrentCUDAStream());
  try {
    const cudaGraph_t graph = Capture(work);
    pool.End();
    return graph;
  } catch (...) {
    pool.End();
    throw;
  }
}

class CudaGraph final : public DeviceGraph {
 public:
  CudaGraph(std::shared_ptr<GraphPool> pool, const std::function<void()>& work) : pool_(std::move(pool)) {
    const cudaGraph_t graph = CaptureInto(*pool_, work);
    const cudaError_t status = cudaGraphInstantiate(&launchable_, graph, 0);
    cudaGraphDestroy(graph);
    C10_CUDA_CHECK(status);
  }
  ~CudaGraph() override { cudaGraphExecDestroy(launchable_); }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void Launch() override { C10_CUDA_CHECK(cudaGraphLaunch(launchable_, c10::cuda::getCurrentCUDAStream())); }

 private:
  const std::shared_ptr<GraphPool> pool_;
  cudaGraphExec_t launchable_ = nullptr;
};

class CudaGraphs final : public DeviceGraphs {
 public:
  std::unique_ptr<DeviceGraph> Record(const std::function<void()>& work) override {
    return std::make_unique<CudaGraph>(pool_, work);
  }

 private:
  const std::shared_ptr<GraphPool> pool_ = std::make_shared<GraphPool>();
};

}  // namespace

std::unique_ptr<DeviceGraphs> MakeCudaGraphs() { return std::make_unique<CudaGraphs>(); }

}  // namespace automodeld
