#ifndef TESTS_KERNELS_POISONED_MEMORY_H_
#define TESTS_KERNELS_POISONED_MEMORY_H_

#include <ATen/ATen.h>

namespace automodeld {

// While it lives, tensors are made full of NaN, and of the largest integer, where nobody says what is in them.
class PoisonedMemory {
 public:
  PoisonedMemory() { at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true); }
  ~PoisonedMemory() { at::globalContext().setDeterministicAlgorithms(false, /*warn_only=*/true); }
  PoisonedMemory(const PoisonedMemory&) = delete;
  PoisonedMemory& operator=(const PoisonedMemory&) = delete;
};

}  // namespace automodeld

#endif  // TESTS_KERNELS_POISONED_MEMORY_H_
