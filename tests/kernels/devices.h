// Where kernel tests run: on the CPU at every instruction level that this machine has, and on a GPU if there is one.
#ifndef TESTS_KERNELS_DEVICES_H_
#define TESTS_KERNELS_DEVICES_H_

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cpu/simd.h"
#include "kernels/registry.h"

namespace automodeld {

inline std::vector<at::Device> Devices() {
  std::vector<at::Device> devices = {at::kCPU};
  if (at::hasCUDA()) devices.emplace_back(at::kCUDA, 0);
  return devices;
}

// The GPU if there is one.
inline at::Device Best() { return Devices().back(); }

// Whether one of them is of the kernel's kind, and can run it.
inline bool Runs(const Kernel& kernel) {
  const bool there = kernel.device == at::kCPU || at::hasCUDA();
  return there && kernel.why_not(at::Device(kernel.device)).empty();
}

// Of tests that need it.
class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    if (Best().is_cpu()) GTEST_SKIP() << "no GPU";
  }
};

inline std::vector<SimdLevel> SimdLevels() {
  std::vector<SimdLevel> levels;
  for (const SimdLevel level : {SimdLevel::kBaseline, SimdLevel::kAvx2, SimdLevel::kAvx512}) {
    if (level <= BestSimdLevel()) levels.push_back(level);
  }
  return levels;
}

// Sets a level and puts the best one back.
class ScopedSimdLevel {
 public:
  explicit ScopedSimdLevel(SimdLevel level) { SetSimdLevel(level); }
  ~ScopedSimdLevel() { SetSimdLevel(BestSimdLevel()); }
  ScopedSimdLevel(const ScopedSimdLevel&) = delete;
  ScopedSimdLevel& operator=(const ScopedSimdLevel&) = delete;
};

}  // namespace automodeld

#endif  // TESTS_KERNELS_DEVICES_H_
