// What CUDA launchers share: loads of 16 bytes.
#ifndef KERNELS_CUDA_LAUNCH_H_
#define KERNELS_CUDA_LAUNCH_H_

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

}  // namespace automodeld

#endif  // KERNELS_CUDA_LAUNCH_H_
