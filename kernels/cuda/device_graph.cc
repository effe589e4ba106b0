// Not at::cuda::CUDAGraph: where a capture fails, that leaves libtorch's allocator in it.
#include "kernels/cuda/device_graph.h"

#include <ATen/cuda/MemPool.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

namespace automodeld {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

// While it lives, memory for the current stream comes from the graphs' pool.
class AllocateFromPool {
 public:
  AllocateFromPool(c10::DeviceIndex device, c10::MempoolId_t pool) : device_(device), pool_(pool) {
    const cudaStream_t recorded = c10::cuda::getCurrentCUDAStream();
    allocator::beginAllocateToPool(device, pool, [recorded](cudaStream_t stream) { return stream == recorded; });
  }
  ~AllocateFromPool() { allocator::endAllocateToPool(device_, pool_); }
  AllocateFromPool(const AllocateFromPool&) = delete;
  AllocateFromPool& operator=(const AllocateFromPool&) = delete;

 private:
  c10::DeviceIndex device_;
  c10::MempoolId_t pool_;
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

class CudaGraph final : public DeviceGraph {
 public:
  CudaGraph(c10::MempoolId_t pool, const std::function<void()>& work)
      : device_(c10::cuda::current_device()), pool_(pool) {
    const AllocateFromPool allocate(device_, pool_);
    try {
      const cudaGraph_t graph = Capture(work);
      const cudaError_t status = cudaGraphInstantiate(&launchable_, graph, 0);
      cudaGraphDestroy(graph);
      C10_CUDA_CHECK(status);
    } catch (...) {
      allocator::releasePool(device_, pool_);
      throw;
    }
  }
  ~CudaGraph() override {
    cudaGraphExecDestroy(launchable_);
    allocator::releasePool(device_, pool_);
  }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void Launch() override { C10_CUDA_CHECK(cudaGraphLaunch(launchable_, c10::cuda::getCurrentCUDAStream())); }

 private:
  c10::DeviceIndex device_;
  c10::MempoolId_t pool_;
  cudaGraphExec_t launchable_ = nullptr;
};

class CudaGraphs final : public DeviceGraphs {
 public:
  std::unique_ptr<DeviceGraph> Record(const std::function<void()>& work) override {
    return std::make_unique<CudaGraph>(pool_, work);
  }

 private:
  const c10::MempoolId_t pool_ = at::cuda::MemPool::graph_pool_handle();
};

}  // namespace

std::unique_ptr<DeviceGraphs> MakeCudaGraphs() { return std::make_unique<CudaGraphs>(); }

}  // namespace automodeld
