// Reserved addresses are PROT_NONE, so that a page that was never mapped faults. Mapping touches every page, because
// memory that only counts as there may be gone when a step writes it first; not so lazily: there a load would wait for
// gigabytes, up to ten seconds where a virtual machine's host has to bring them.
#include "kernels/cpu/slab_memory.h"

#include <c10/util/Exception.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

namespace automodeld {
namespace {

constexpr int64_t kHugePage = 2 << 20;
constexpr std::chrono::milliseconds kRecount{100};  // a gigabyte takes a quarter of one

void* NoMemoryAt(void* begin, size_t bytes, int flags) {
  return mmap(begin, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

class CpuSlabMemory final : public SlabMemory {
 public:
  int64_t granularity() const override { return page_; }

  // Begins on a border of a huge page: what comes before and after goes back.
  std::byte* Reserve(int64_t bytes) override {
    const auto size = static_cast<size_t>(bytes);
    void* found = NoMemoryAt(nullptr, size + kHugePage, 0);
    TORCH_CHECK(found != MAP_FAILED, "cannot reserve ", bytes, " bytes of addresses: ", std::strerror(errno));
    auto* begin = static_cast<std::byte*>(found);
    const auto before =
        static_cast<size_t>(-static_cast<int64_t>(reinterpret_cast<uintptr_t>(begin)) & (kHugePage - 1));
    if (before > 0) munmap(begin, before);
    munmap(begin + before + size, static_cast<size_t>(kHugePage) - before);
    return begin + before;
  }

  void Release(std::byte* begin, int64_t bytes) override { munmap(begin, static_cast<size_t>(bytes)); }

  bool Map(std::byte* begin, int64_t bytes, bool lazily) override {
    const auto size = static_cast<size_t>(bytes);
    if (mprotect(begin, size, PROT_READ | PROT_WRITE) != 0) return false;
#ifdef MADV_HUGEPAGE
    if (bytes >= kHugePage) static_cast<void>(madvise(begin, size, MADV_HUGEPAGE));
#endif
    if (lazily) {
      const std::lock_guard lock(mutex_);
      lazy_[begin] = {.bytes = bytes, .missing = bytes};
      outstanding_ += bytes;
      return true;
    }
    if (Populate(begin, size)) return true;
    Unmap(begin, bytes);
    return false;
  }

  void Unmap(std::byte* begin, int64_t bytes) override {
    {
      const std::lock_guard lock(mutex_);
      const auto end = lazy_.lower_bound(begin + bytes);
      for (auto slab = lazy_.lower_bound(begin); slab != end;) slab = Forget(slab);
    }
    // One call that both frees and closes. It fails only where the kernel has no room for one more range of addresses:
    // the memory still goes back.
    const auto size = static_cast<size_t>(bytes);
    if (NoMemoryAt(begin, size, MAP_FIXED) == MAP_FAILED) static_cast<void>(madvise(begin, size, MADV_DONTNEED));
  }

  int64_t OutstandingBytes() override {
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    if (now - counted_at_ < kRecount) return outstanding_;
    counted_at_ = now;
    for (auto slab = lazy_.begin(); slab != lazy_.end();) {
      const int64_t missing = MissingBytes(slab->first, slab->second.bytes);
      outstanding_ -= slab->second.missing - missing;
      slab->second.missing = missing;
      slab = missing == 0 ? Forget(slab) : std::next(slab);
    }
    return outstanding_;
  }

 private:
  struct LazySlab {
    int64_t bytes = 0, missing = 0;  // when it was counted last
  };
  using LazySlabs = std::map<std::byte*, LazySlab>;

  LazySlabs::iterator Forget(LazySlabs::iterator slab) {
    outstanding_ -= slab->second.missing;
    return lazy_.erase(slab);
  }

  int64_t MissingBytes(std::byte* begin, int64_t bytes) const {
    std::vector<unsigned char> resident(static_cast<size_t>(bytes / page_));
    if (mincore(begin, static_cast<size_t>(bytes), resident.data()) != 0) return 0;
    return page_ * std::ranges::count_if(resident, [](unsigned char page) { return (page & 1) == 0; });
  }

  bool Populate(std::byte* begin, size_t size) const {
#ifdef MADV_POPULATE_WRITE
    if (madvise(begin, size, MADV_POPULATE_WRITE) == 0) return true;
    if (errno != EINVAL) return false;  // EINVAL: a kernel before 5.14
#endif
    for (size_t i = 0; i < size; i += static_cast<size_t>(page_)) {
      *reinterpret_cast<volatile std::byte*>(begin + i) = std::byte{0};
    }
    return true;
  }

  const int64_t page_ = sysconf(_SC_PAGESIZE);
  std::mutex mutex_;
  LazySlabs lazy_;  // of which something may be missing
  int64_t outstanding_ = 0;
  std::chrono::steady_clock::time_point counted_at_;
};

}  // namespace

std::unique_ptr<SlabMemory> MakeCpuSlabMemory() { return std::make_unique<CpuSlabMemory>(); }

}  // namespace automodeld
