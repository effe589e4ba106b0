#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAMacros.h>

#include <array>
#include <atomic>

#include "kernels/cuda/launch.h"

namespace automodeld {
namespace {

__global__ void compiled_as_all_are_kernel() {}

int AskRuntime() {
  cudaFuncAttributes attributes{};
  if (cudaFuncGetAttributes(&attributes, compiled_as_all_are_kernel) == cudaSuccess) return attributes.ptxVersion;
  cudaGetLastError();  // or the next launch reports it
  return 0;
}

}  // namespace

int CodeCapability() {
  constexpr int kUnknown = 0;
  static std::array<std::atomic<int>, C10_COMPILE_TIME_MAX_GPUS> known{};  // one more than it is
  std::atomic<int>& of_device = known[static_cast<size_t>(c10::cuda::current_device())];
  if (of_device == kUnknown) of_device = AskRuntime() + 1;
  return of_device - 1;
}

}  // namespace automodeld
