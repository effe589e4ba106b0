// Pages of an e4m3 cache as 16-bit numbers, which are exactly what the bytes are: for kernels that multiply what lies
// in memory.
#ifndef KERNELS_CUDA_WIDEN_PAGES_H_
#define KERNELS_CUDA_WIDEN_PAGES_H_

#include <cstdint>

#include "kernels/cuda/flash_attention.h"

namespace automodeld {

// Keys and values of `from`'s pages pages[0 .. num_pages), which lie on the device, one after the other into `keys` and
// `values`: bfloat16 or float16, of page_elements for each page, a multiple of 16, which are dense in both. On the
// current stream. `from` and what is written lie on borders of 16 bytes.
void WidenPages(bool bfloat16, const FlashSource& from, const int32_t* pages, int64_t num_pages, int64_t page_elements,
                void* keys, void* values);

}  // namespace automodeld

#endif  // KERNELS_CUDA_WIDEN_PAGES_H_
