// What CUDA launchers share: loads of 16 bytes, what the device's code can do, and launches that overlap with the
// kernel before.
//
// Programmatic dependent launch: Launch starts a kernel while the one before it in the stream still runs. Until it has
// called AwaitPrevious it may only touch what no kernel of the step writes (weights, tables), or prefetch it. A kernel
// that ends tells the next that those before have ended, so every thread calls AwaitPrevious, or at least one that is
// sure to be there. AllowNext lets the next kernel start; it is a hint.
//
//   __global__ void add_kernel(...) { AllowNext(); AwaitPrevious(); ... }
//   Launch(add_kernel<T>, blocks, kThreads, 0, args);
#ifndef KERNELS_CUDA_LAUNCH_H_
#define KERNELS_CUDA_LAUNCH_H_

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace automodeld {

// W elements that travel together.
template <typename T, int W>
struct alignas(sizeof(T) * W) Pack {
  T values[W];
  __device__ T& operator[](int i) { return values[i]; }
  __device__ const T& operator[](int i) const { return values[i]; }
};

template <typename T, int W>
__device__ Pack<T, W> Load(const T* from) {
  return *reinterpret_cast<const Pack<T, W>*>(from);
}

template <typename T, int W>
__device__ void Store(T* to, const Pack<T, W>& pack) {
  *reinterpret_cast<Pack<T, W>*>(to) = pack;
}

// Whether every pointer lies on a border of 16 bytes.
template <typename... Pointers>
bool Aligned16(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) | ...) % 16) == 0;
}

// Returns when all kernels before this one in the stream have ended and what they wrote can be read.
__device__ inline void AwaitPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel may start: its part before AwaitPrevious runs beside the rest of this one.
__device__ inline void AllowNext() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Ten times the compute capability for which the code was compiled that the current device runs, 90 for 9.0; 0 if this
// build has none for it. A newer device may run older code, by way of its PTX.
int CodeCapability();

// Whether that code can be launched in clusters (cluster.h) and before the kernel before it has ended: not on Ampere.
inline bool HasHopperLaunches() { return CodeCapability() >= 90; }

// What Launch and LaunchClusters share; the first attribute is filled in here.
template <size_t N, typename... Params, typename... Args>
void LaunchWith(cudaLaunchAttribute (&attributes)[N], void (*kernel)(Params...), dim3 grid, dim3 block,
                size_t shared_bytes, Args&&... args) {
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = c10::cuda::getCurrentCUDAStream();
  const unsigned left_out = HasHopperLaunches() ? 0 : 1;
  config.attrs = attributes + left_out;
  config.numAttrs = N - left_out;
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
}

// On the current stream of the current device; throws c10::Error where the launch is refused. The kernel must be one
// that calls AwaitPrevious.
template <typename... Params, typename... Args>
void Launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, Args&&... args) {
  cudaLaunchAttribute attributes[1] = {};
  LaunchWith(attributes, kernel, grid, block, shared_bytes, args...);
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_LAUNCH_H_
