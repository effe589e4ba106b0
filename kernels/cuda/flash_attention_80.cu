#include "kernels/cuda/flash_attention_kernel.h"

namespace automodeld {

template void LaunchFlash<80>(FlashKind kind, FlashElement type, FlashHeld held, const FlashArgs& args);
template bool HasFlashCode<80>();

}  // namespace automodeld
