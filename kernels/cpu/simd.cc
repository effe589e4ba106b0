#include "kernels/cpu/simd.h"

namespace automodeld {
namespace {

SimdLevel& Level() {
  static SimdLevel level = BestSimdLevel();
  return level;
}

}  // namespace

SimdLevel BestSimdLevel() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4")) return SimdLevel::kAvx512;
  if (__builtin_cpu_supports("x86-64-v3")) return SimdLevel::kAvx2;
#endif
  return SimdLevel::kBaseline;
}

SimdLevel CurrentSimdLevel() { return Level(); }

void SetSimdLevel(SimdLevel level) { Level() = level; }

}  // namespace automodeld
