// Memory that a thread keeps from step to step.
#ifndef KERNELS_CPU_SCRATCH_H_
#define KERNELS_CPU_SCRATCH_H_

#include <bit>
#include <cstdint>
#include <vector>

namespace automodeld {

// At least `size` floats, aligned to 64 bytes; zero, hence finite, where nobody wrote. One use at a time per thread.
inline float* ThreadScratch(int64_t size) {
  constexpr size_t kLine = 64 / sizeof(float);
  thread_local std::vector<float> memory;
  if (memory.size() < static_cast<size_t>(size) + kLine) memory.assign(static_cast<size_t>(size) + kLine, 0.0f);
  const auto address = std::bit_cast<uintptr_t>(memory.data());
  return memory.data() + (64 - address % 64) % 64 / sizeof(float);
}

}  // namespace automodeld

#endif  // KERNELS_CPU_SCRATCH_H_
