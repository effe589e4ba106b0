// Counts the bytes that libtorch's CPU allocator has given out.
//
//   CountingAllocator& counter = CountingAllocator::Installed();
//   counter.ResetPeak();
//   ...
//   counter.peak();
//
// Installed once and for the rest of the process; blocks from before are not counted. Threads: any.
#ifndef TESTS_MODELS_COUNTING_ALLOCATOR_H_
#define TESTS_MODELS_COUNTING_ALLOCATOR_H_

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <utility>

namespace automodeld {

class CountingAllocator final : public c10::Allocator {
 public:
  static CountingAllocator& Installed() {
    static auto* const counter = [] {
      auto* made = new CountingAllocator(c10::GetCPUAllocator());  // blocks may outlive main
      c10::SetCPUAllocator(made);
      return made;
    }();
    return *counter;
  }

  int64_t current() const {
    const std::scoped_lock lock(mutex_);
    return current_;
  }
  int64_t peak() const {
    const std::scoped_lock lock(mutex_);
    return peak_;
  }
  void ResetPeak() {
    const std::scoped_lock lock(mutex_);
    peak_ = current_;
  }

  c10::DataPtr allocate(size_t bytes) override {
    auto* block = new Block{under_->allocate(bytes), static_cast<int64_t>(bytes)};
    Add(block->bytes);
    return {block->data.get(), block, &Free, at::Device(at::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  struct Block {
    c10::DataPtr data;
    int64_t bytes;
  };

  explicit CountingAllocator(c10::Allocator* under) : under_(under) {}

  static void Free(void* context) {
    auto* block = static_cast<Block*>(context);
    Installed().Add(-block->bytes);
    delete block;
  }

  void Add(int64_t bytes) {
    const std::scoped_lock lock(mutex_);
    current_ += bytes;
    peak_ = std::max(peak_, current_);
  }

  c10::Allocator* under_;
  mutable std::mutex mutex_;
  int64_t current_ = 0;
  int64_t peak_ = 0;
};

}  // namespace automodeld

#endif  // TESTS_MODELS_COUNTING_ALLOCATOR_H_
