// Devices: which one a load means, and its memory.
#ifndef CORE_DEVICE_TORCH_H_
#define CORE_DEVICE_TORCH_H_

#include <ATen/ATen.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <string>

#include "core/patch.h"

namespace automodeld {

// "auto" (the first GPU; the CPU if there is none, which is no fallback), "cpu", "cuda" (the first GPU) or "cuda:N". A
// GPU that "auto" finds but cannot use is a fallback to the CPU.
//   INVALID_ARGUMENT     another text, or an N that is not there
//   FAILED_PRECONDITION  cuda without a GPU, or with one that cannot be used
absl::StatusOr<at::Device> ChooseDevice(const std::string& device, Fallbacks& fallbacks);

// Bytes that can still be allocated there.
int64_t AvailableBytes(at::Device device);

// Measures the most bytes in use at once from now on, which libtorch counts on GPUs only: 0 on the CPU.
void ResetPeakBytes(at::Device device);
int64_t PeakBytes(at::Device device);

}  // namespace automodeld

#endif  // CORE_DEVICE_TORCH_H_
