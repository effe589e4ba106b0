// Work of a GPU captured into a graph, to replay and to time. AUTOMODELD_GRAPHS says whether this build can.
//
//   CapturedGraph graph([&] { y = ops.act_mul(x, "silu", true); });
//   graph.Replay();
#ifndef TESTS_KERNELS_CAPTURED_GRAPH_H_
#define TESTS_KERNELS_CAPTURED_GRAPH_H_

#if __has_include(<cuda_runtime_api.h>)
#define AUTOMODELD_GRAPHS 1

#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <vector>

namespace automodeld {

class CapturedGraph {
 public:
  // Runs `work` once as it is, and once for the capture.
  template <typename Work>
  explicit CapturedGraph(Work work) {
    const c10::cuda::CUDAStreamGuard guard(stream_);
    at::cuda::device_synchronize();
    work();
    stream_.synchronize();
    graph_.capture_begin();
    work();
    graph_.capture_end();
  }

  // Returns when the graph has run.
  void Replay() {
    const c10::cuda::CUDAStreamGuard guard(stream_);
    at::cuda::device_synchronize();
    graph_.replay();
    stream_.synchronize();
  }

  // Of one replay, the median of `times` after two more.
  double Microseconds(int times) {
    const c10::cuda::CUDAStreamGuard guard(stream_);
    std::vector<double> took;
    for (int i = -2; i < times; ++i) {
      at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
      begin.record(stream_);
      graph_.replay();
      end.record(stream_);
      end.synchronize();
      if (i >= 0) took.push_back(1e3 * static_cast<double>(begin.elapsed_time(end)));
    }
    std::ranges::sort(took);
    return took[took.size() / 2];
  }

 private:
  c10::cuda::CUDAStream stream_ = c10::cuda::getStreamFromPool();
  at::cuda::CUDAGraph graph_;
};

}  // namespace automodeld

#endif
#endif  // TESTS_KERNELS_CAPTURED_GRAPH_H_
