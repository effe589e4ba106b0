#include "kernels/cuda/flash_attention_kernel.h"

namespace automodeld {

template void LaunchFlash<32>(FlashKind kind, FlashElement type, FlashHeld held, const FlashArgs& args);
template bool HasFlashCode<32>();

}  // namespace automodeld
