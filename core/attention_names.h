// The words of attention: the ladder of implementations, best first, and the names of SDPA's methods. Torch-free.
#ifndef CORE_ATTENTION_NAMES_H_
#define CORE_ATTENTION_NAMES_H_

#include <array>

#include "core/auto_model.h"

namespace automodeld {

// A rung that cannot do what a model needs falls back to the next; at the last its error is the answer.
inline constexpr std::array<const char*, 3> kAttentionLadder = {"flash_attention_2", "sdpa", "eager"};

struct SdpaMethodName {
  SdpaMethod method;
  const char* name;
};

// In the order in which they are tried unless sdpa_method gives another.
inline constexpr std::array<SdpaMethodName, 4> kSdpaMethods = {{
    {SdpaMethod::kCudnnAttention, "CUDNN_ATTENTION"},
    {SdpaMethod::kFlashAttention, "FLASH_ATTENTION"},
    {SdpaMethod::kEfficientAttention, "EFFICIENT_ATTENTION"},
    {SdpaMethod::kMath, "MATH"},
}};

}  // namespace automodeld

#endif  // CORE_ATTENTION_NAMES_H_
