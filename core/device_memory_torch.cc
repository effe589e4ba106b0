#include "core/device_memory_torch.h"

#include <map>
#include <mutex>

#include "core/device_torch.h"

namespace automodeld {
namespace {

// What growing caches leave for the intermediate results of steps.
constexpr int64_t kCpuReserve = int64_t{512} << 20;
constexpr int64_t kGpuReserve = int64_t{2} << 30;

}  // namespace

DeviceMemory::DeviceMemory(at::Device device)
    : budget_(
          [this, device] { return AvailableBytes(device) - (arena_ == nullptr ? 0 : arena_->outstanding_bytes()); }) {
  std::unique_ptr<SlabMemory> memory = MakeSlabMemory(device);
  if (memory == nullptr) return;
  arena_ = std::make_unique<KvArena>(std::move(memory), budget_, device.is_cpu() ? kCpuReserve : kGpuReserve);
}

DeviceMemory& DeviceMemory::Of(at::Device device) {
  static std::mutex mutex;
  static auto* const memories = new std::map<std::string, std::unique_ptr<DeviceMemory>>;  // models may outlive main
  const std::lock_guard lock(mutex);
  std::unique_ptr<DeviceMemory>& memory = (*memories)[device.str()];
  if (memory == nullptr) memory.reset(new DeviceMemory(device));
  return *memory;
}

}  // namespace automodeld
