#include "core/device_torch.h"

#include <ATen/DeviceAccelerator.h>
#include <absl/strings/numbers.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <limits>

#include "core/exception_torch.h"
#include "core/memory.h"
#include "core/status.h"

namespace automodeld {

namespace {

int64_t NumGpus() { return at::hasCUDA() ? static_cast<int64_t>(at::detail::getCUDAHooks().deviceCount()) : 0; }

// Whether a kernel runs there: a driver may be broken, or the GPU older than this build.
absl::Status TryGpu(at::Device device) {
  return WithoutExceptions([&]() -> absl::Status {
    const auto one = at::ones({1}, at::TensorOptions(at::kFloat).device(device)).item<float>();
    return one == 1.0F ? absl::OkStatus() : absl::InternalError("a kernel gave a wrong result");
  });
}

// Of "cuda" or "cuda:N", whose form CheckLoadOptions has checked.
int64_t IndexOf(const std::string& device) {
  int64_t index = 0;
  return device.size() > 5 && absl::SimpleAtoi(device.substr(5), &index) ? index : 0;
}

absl::StatusOr<at::Device> ChooseGpu(const std::string& device) {
  const int64_t index = IndexOf(device);
  const int64_t num_gpus = NumGpus();
  if (num_gpus == 0)
    return absl::FailedPreconditionError(fmt::format("device: {}: this machine has no usable GPU", device));
  if (index >= num_gpus) {
    return absl::InvalidArgumentError(fmt::format("device: {} is outside cuda:0..cuda:{}", device, num_gpus - 1));
  }
  const at::Device gpu(at::kCUDA, static_cast<at::DeviceIndex>(index));
  const absl::Status status = TryGpu(gpu);
  if (status.ok()) return gpu;
  return absl::FailedPreconditionError(fmt::format("device: {}: {}", device, std::string(status.message())));
}

}  // namespace

absl::StatusOr<at::Device> ChooseDevice(const std::string& device, Fallbacks& fallbacks) {
  if (device == "cpu") return at::Device(at::kCPU);
  if (device != "auto") return ChooseGpu(device);
  if (NumGpus() == 0) return at::Device(at::kCPU);
  const at::Device gpu(at::kCUDA, 0);
  const absl::Status status = TryGpu(gpu);
  if (status.ok()) return gpu;
  RETURN_IF_ERROR(fallbacks.Take("device=auto", std::string(status.message()), "cpu"));
  return at::Device(at::kCPU);
}

int64_t AvailableBytes(at::Device device) {
  if (device.is_cpu()) return AvailableMemory();
  const auto [free, total] = at::accelerator::getMemoryInfo(device.index());
  return static_cast<int64_t>(free);
}

void ResetPeakBytes(at::Device device) {
  if (!device.is_cpu()) at::accelerator::resetPeakStats(device.index());
}

int64_t PeakBytes(at::Device device) {
  if (device.is_cpu()) return 0;
  const auto stats = at::accelerator::getDeviceStats(device.index());
  return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
}

}  // namespace automodeld
