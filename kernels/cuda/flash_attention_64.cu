#include "kernels/cuda/flash_attention_kernel.h"

namespace automodeld {

template void LaunchFlash<64>(FlashKind kind, FlashElement type, FlashHeld held, const FlashArgs& args);
template bool HasFlashCode<64>();

}  // namespace automodeld
