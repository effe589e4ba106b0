#include "kernels/cuda/tensor_map.h"

#include <c10/cuda/CUDAException.h>
#include <cuda_runtime.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <iterator>

namespace automodeld {
namespace {

// The driver's function, found once; libcuda itself is not linked, for it is not there on a machine without a GPU.
decltype(&cuTensorMapEncodeTiled) EncodeTiled() {
  static const auto function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result = {};
    C10_CUDA_CHECK(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result));
    TORCH_CHECK(result == cudaDriverEntryPointSuccess, "the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  }();
  return function;
}

}  // namespace

CUtensorMap MapOf(const char* what, CUtensorMapDataType type, const void* data, std::initializer_list<uint64_t> sizes,
                  std::initializer_list<uint64_t> strides, std::initializer_list<uint32_t> box) {
  static constexpr std::array<cuuint32_t, 5> kSteps = {1, 1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      EncodeTiled()(&map, type, static_cast<cuuint32_t>(sizes.size()), const_cast<void*>(data), std::data(sizes),
                    std::data(strides), std::data(box), kSteps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
                    CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  TORCH_CHECK(result == CUDA_SUCCESS, what, ": a map of sizes ", fmt::format("{}", fmt::join(sizes, " x ")),
              " with strides ", fmt::format("{}", fmt::join(strides, ", ")), " bytes is refused by the driver (",
              static_cast<int>(result), ")");
  return map;
}

}  // namespace automodeld
