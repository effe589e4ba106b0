// Flash attention of prompts on Hopper: tiles of 128 packed rows, by wgmma and the copy engine. It takes the place of
// flash_attention.h's large tiles where heads are of 64 or 128, and keys and values of q's type (FlashHeld::kSame) or
// made so before (WidenPages).
#ifndef KERNELS_CUDA_FLASH_ATTENTION_WIDE_H_
#define KERNELS_CUDA_FLASH_ATTENTION_WIDE_H_

#include <cuda.h>

#include "kernels/cuda/flash_attention.h"

namespace automodeld {

// The most packed rows of a tile: it takes whole tokens, which the copy engine fetches as they lie.
inline constexpr int kWideRows = 128;
constexpr int WideTokens(int64_t group) { return kWideRows / static_cast<int>(group); }  // 0: there is no such tile

// A box of keys or values is so many of a key head, 64 columns of each; a page has a whole number of them.
inline constexpr int kWideBoxKeys = 16;

// Four dimensions each. queries: [1, tokens, heads, head_dim] in boxes of WideTokens x group x 64; keys, values:
// [pages, page size, kv heads, head_dim], or [1, tokens, kv heads, head_dim] of ragged rows, in boxes of kWideBoxKeys.
struct FlashMaps {
  CUtensorMap queries, keys, values;
};

// `args` on the current stream, in at most so many blocks; items are of WideTokens each, those with the most keys
// first. Dim is 64 or 128, and the head size.
template <int Dim>
void LaunchWideFlash(bool bfloat16, int64_t most_blocks, const FlashMaps& maps, const FlashArgs& args);

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_WIDE_H_
