// Reads a byte and writes two for each element: a page's keys by one block, its values by another.
#include "kernels/cuda/flash_attention_mma.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/widen_pages.h"

namespace automodeld {
namespace {

constexpr int kThreads = 256, kPack = 16;

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
    const auto bytes = Load<uint32_t, kPack / 4>(reinterpret_cast<const uint32_t*>(source + i));
    Pack<uint32_t, kPack / 2> wide;
#pragma unroll
    for (int j = 0; j < kPack / 4; ++j) {
      uint32_t pairs[2];
      Widen(bytes[j], pairs);
      for (int k = 0; k < 2; ++k) wide[2 * j + k] = FromHalfPair(T{}, pairs[k]);
    }
    Store(reinterpret_cast<uint32_t*>(to + i), wide);
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
