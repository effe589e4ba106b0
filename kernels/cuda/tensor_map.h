// How tensors are described to Hopper's copy engine (kernels/cuda/hopper.h).
//
// A map goes to a kernel as a parameter, so that a recorded launch has it for good: it is right for as long as the
// tensor stays where it is.
#ifndef KERNELS_CUDA_TENSOR_MAP_H_
#define KERNELS_CUDA_TENSOR_MAP_H_

#include <cuda.h>

#include <cstdint>
#include <initializer_list>

namespace automodeld {

// Two to five dimensions, the innermost first, whose elements are dense; strides, in bytes, are those of the others.
// Boxes are rows of at most 128 bytes, which the engine swizzles (CU_TENSOR_MAP_SWIZZLE_128B); zeros beyond the
// borders. Throws c10::Error that begins with `what` where the driver refuses it.
CUtensorMap MapOf(const char* what, CUtensorMapDataType type, const void* data, std::initializer_list<uint64_t> sizes,
                  std::initializer_list<uint64_t> strides, std::initializer_list<uint32_t> box);

}  // namespace automodeld

#endif  // KERNELS_CUDA_TENSOR_MAP_H_
