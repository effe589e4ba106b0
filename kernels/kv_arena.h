// The memory of the KV caches on one device. Each model reserves addresses for all the pages it may ever have; memory
// comes beneath them slab by slab, lowest pages first, when the model asks, and goes again when it asks for less or is
// unloaded. Addresses never move: views and recorded graphs stay valid.
//
//   KvArena arena(MakeSlabMemory(device), budget, /*reserve_bytes=*/int64_t{2} << 30);
//   const std::shared_ptr<KvRange> range = arena.Reserve(page_bytes, num_pages);
//   if (!range->EnsureMapped(65)) …          // pages 0..64 have memory, or there is not enough
//   range->Request(100);                     // returns at once: a thread of the arena maps more
//   range->mapped_pages();                   // at least 65; in a while 100 or more
//
// A request beyond what the device has falls short: mapped_pages() says how far it came. The thread sleeps while
// nothing is asked for.
#ifndef KERNELS_KV_ARENA_H_
#define KERNELS_KV_ARENA_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/memory_budget.h"
#include "kernels/slab_memory.h"

namespace automodeld {

class KvArena;

// One model's part. Its methods may be called by one thread at a time, mapped_pages() by any. Destroyed, it gives all
// back: nothing on the device may use it any more.
class KvRange {
 public:
  ~KvRange();
  KvRange(const KvRange&) = delete;
  KvRange& operator=(const KvRange&) = delete;

  std::byte* data() const { return begin_; }  // on a border of at least 256 bytes
  int64_t page_bytes() const { return page_bytes_; }
  int64_t num_pages() const { return num_pages_; }

  // Pages below may be read and written.
  int64_t mapped_pages() const { return mapped_pages_.load(std::memory_order_acquire); }

  // Maps at least so many pages, and keeps them for the range's life. Waits, but on the CPU their memory comes as they
  // are written. false: there is not enough memory.
  bool EnsureMapped(int64_t pages);

  // Asks for `pages` mapped pages, more or fewer than there are; never fewer than EnsureMapped made. More come within
  // some milliseconds, if at all. Where fewer are asked for, mapped_pages() is lower on return, and nothing on the
  // device may use those above any more.
  void Request(int64_t pages);

 private:
  friend class KvArena;
  KvRange(KvArena& arena, int64_t page_bytes, int64_t num_pages);

  int64_t SlabsFor(int64_t pages) const;
  int64_t BytesOf(int64_t slab) const;  // the last one may be smaller
  void Publish();                       // under the arena's mutex, as all below

  KvArena& arena_;
  const int64_t page_bytes_, num_pages_;
  int64_t slab_bytes_ = 0, total_bytes_ = 0;
  std::byte* begin_ = nullptr;
  std::atomic<int64_t> mapped_pages_ = 0;
  int64_t slabs_ = 0, wanted_ = 0, least_ = 0;
  bool failed_ = false;  // the last attempt to map
  std::chrono::steady_clock::time_point failed_at_;
};

class KvArena {
 public:
  // `budget` says what may be taken; growth beyond what EnsureMapped asked for leaves reserve_bytes, for what steps
  // need. The budget must outlive the arena, which must outlive its ranges.
  KvArena(std::unique_ptr<SlabMemory> memory, MemoryBudget& budget, int64_t reserve_bytes,
          int64_t slab_bytes = 32 << 20);
  ~KvArena();
  KvArena(const KvArena&) = delete;
  KvArena& operator=(const KvArena&) = delete;

  // Nothing of it is mapped. Throws c10::Error where the addresses cannot be had.
  std::shared_ptr<KvRange> Reserve(int64_t page_bytes, int64_t num_pages);

  // Of all ranges; what is being given back counts until others may have had it for a moment.
  int64_t mapped_bytes() const;
  const MemoryBudget& budget() const { return budget_; }
  // What the budget must count as taken although the device still calls it free (SlabMemory).
  int64_t outstanding_bytes() const { return memory_->OutstandingBytes(); }

 private:
  friend class KvRange;
  void Run();
  KvRange* NextWithWork();  // round robin; null: none
  void MapOne(KvRange& range, std::unique_lock<std::mutex>& lock);
  void UnmapOne(KvRange& range, std::unique_lock<std::mutex>& lock);
  bool MayTake(int64_t bytes, bool promised) const;
  void Remove(KvRange& range);

  const std::unique_ptr<SlabMemory> memory_;
  MemoryBudget& budget_;
  const int64_t reserve_bytes_, slab_bytes_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;     // of the thread
  std::condition_variable changed_;  // the thread has done something
  std::vector<KvRange*> ranges_;
  size_t next_ = 0;                // of ranges_: whose turn it is
  const KvRange* busy_ = nullptr;  // the thread works on it
  int64_t mapped_bytes_ = 0;
  bool stopping_ = false;
  std::thread thread_;  // started with the first range
};

}  // namespace automodeld

#endif  // KERNELS_KV_ARENA_H_
