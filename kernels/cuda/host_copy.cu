#include <ATen/core/CachingHostAllocator.h>
#include <c10/cuda/CUDAGuard.h>

#include "kernels/cuda/host_copy.h"
#include "kernels/cuda/launch.h"

namespace automodeld {
namespace {

constexpr size_t kMostBytes = 64 << 10;  // beyond, a copy engine's rate weighs more than its delay
constexpr unsigned kThreads = 256;

// No AllowNext: kernels may read a step's plan before they call AwaitPrevious.
__global__ void __launch_bounds__(kThreads)
    host_copy_kernel(const char* from, char* to, unsigned words, unsigned bytes) {
  AwaitPrevious();  // they may still use `to`
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  if (i < words) reinterpret_cast<uint64_t*>(to)[i] = reinterpret_cast<const uint64_t*>(from)[i];
  const unsigned rest = words * 8 + i;
  if (rest < bytes) to[rest] = from[rest];
}

bool OnBorderOf8(const at::Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 8 == 0; }

}  // namespace

bool TakesCudaHostCopy(const at::Tensor& from, const at::Tensor& to) {
  const bool pinned = from.is_cuda() ? to.is_cpu() && to.is_pinned() : to.is_cuda() && from.is_pinned();
  return pinned && from.nbytes() > 0 && from.nbytes() <= kMostBytes && OnBorderOf8(from) && OnBorderOf8(to);
}

void CudaHostCopy(const at::Tensor& from, const at::Tensor& to) {
  const at::Tensor& host = from.is_cuda() ? to : from;
  const c10::cuda::CUDAGuard guard(from.is_cuda() ? from.device() : to.device());
  const auto bytes = static_cast<unsigned>(from.nbytes()), words = bytes / 8;
  const unsigned blocks = (std::max(words, 8U) + kThreads - 1) / kThreads;
  Launch(host_copy_kernel, blocks, kThreads, 0, static_cast<const char*>(from.const_data_ptr()),
         static_cast<char*>(to.mutable_data_ptr()), words, bytes);
  // Or the memory could be handed out again before the kernel has run.
  const at::DataPtr& memory = host.storage().data_ptr();
  at::getHostAllocator(at::kCUDA)->record_event(memory.get(), memory.get_context(),
                                                c10::cuda::getCurrentCUDAStream().unwrap());
}

}  // namespace automodeld
