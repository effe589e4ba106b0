#include "kernels/cuda/flash_attention_kernel.h"

namespace automodeld {

template void LaunchFlash<96>(FlashKind kind, FlashElement type, FlashHeld held, const FlashArgs& args);
template bool HasFlashCode<96>();

}  // namespace automodeld
