// What models share of a device's memory: the promises made of it, and the arena of their KV caches.
#ifndef CORE_DEVICE_MEMORY_TORCH_H_
#define CORE_DEVICE_MEMORY_TORCH_H_

#include <ATen/ATen.h>

#include <memory>

#include "kernels/kv_arena.h"
#include "kernels/memory_budget.h"

namespace automodeld {

class DeviceMemory {
 public:
  // Made at the first call, and kept until the process ends. Threads: any.
  static DeviceMemory& Of(at::Device device);

  MemoryBudget& budget() { return budget_; }
  // Null where the device cannot map memory: a KV cache is then allocated as a whole.
  KvArena* arena() { return arena_.get(); }

 private:
  explicit DeviceMemory(at::Device device);

  MemoryBudget budget_;
  std::unique_ptr<KvArena> arena_;
};

}  // namespace automodeld

#endif  // CORE_DEVICE_MEMORY_TORCH_H_
