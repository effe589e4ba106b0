#include "kernels/cuda/flash_attention_kernel.h"

namespace automodeld {

template void LaunchFlash<256>(FlashKind kind, FlashElement type, FlashHeld held, const FlashArgs& args);
template bool HasFlashCode<256>();

}  // namespace automodeld
