// Reads a byte and writes two for each element: a page's keys by one block, its values by another.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/widen_pages.h"

namespace automodeld {
namespace {

constexpr int kThreads = 256, kPack = 16;

template <typename T>
__device__ T Widened(__half x) {
  if constexpr (std::is_same_v<T, __half>)
    return x;
  else
    return __float2bfloat16(__half2float(x));
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    widen_pages_kernel(const FlashSource from, const int32_t* pages, int64_t page_elements, T* keys, T* values) {
  AllowNext();
  AwaitPrevious();
  const bool is_value = blockIdx.y == 1;
  const auto* source = static_cast<const uint8_t*>(is_value ? from.values : from.keys);
  source += pages[blockIdx.x] * from.page_stride;
  T* to = (is_value ? values : keys) + blockIdx.x * page_elements;
  for (int64_t i = threadIdx.x * kPack; i < page_elements; i += kThreads * kPack) {
    const Pack<uint8_t, kPack> bytes = Load<uint8_t, kPack>(source + i);
    Pack<T, kPack> wide;
#pragma unroll
    for (int j = 0; j < kPack; j += 2) {
      const auto two = static_cast<__nv_fp8x2_storage_t>(bytes[j] | bytes[j + 1] << 8);
      const __half2_raw halves = __nv_cvt_fp8x2_to_halfraw2(two, __NV_E4M3);
      wide[j] = Widened<T>(__ushort_as_half(halves.x));
      wide[j + 1] = Widened<T>(__ushort_as_half(halves.y));
    }
    Store(to + i, wide);
  }
}

template <typename T>
void Run(const FlashSource& from, const int32_t* pages, int64_t num_pages, int64_t page_elements, void* keys,
         void* values) {
  Launch(widen_pages_kernel<T>, dim3(static_cast<unsigned>(num_pages), 2), kThreads, 0, from, pages, page_elements,
         static_cast<T*>(keys), static_cast<T*>(values));
}

}  // namespace

void WidenPages(bool bfloat16, const FlashSource& from, const int32_t* pages, int64_t num_pages, int64_t page_elements,
                void* keys, void* values) {
  (bfloat16 ? Run<__nv_bfloat16> : Run<__half>)(from, pages, num_pages, page_elements, keys, values);
}

}  // namespace automodeld
