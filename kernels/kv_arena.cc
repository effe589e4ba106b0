#include "kernels/kv_arena.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>

namespace automodeld {
namespace {

// A request is not tried again sooner than this after one that failed: a busy model asks at every step.
constexpr std::chrono::milliseconds kRetry{50};

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

KvRange::KvRange(KvArena& arena, int64_t page_bytes, int64_t num_pages)
    : arena_(arena), page_bytes_(page_bytes), num_pages_(num_pages) {
  TORCH_CHECK(page_bytes > 0 && num_pages > 0 && num_pages < std::numeric_limits<int64_t>::max() / 2 / page_bytes,
              "a KV cache of ", num_pages, " pages of ", page_bytes, " bytes");
  const int64_t granularity = arena.memory_->granularity();
  total_bytes_ = RoundUp(page_bytes * num_pages, granularity);
  slab_bytes_ = std::min(total_bytes_, RoundUp(arena.slab_bytes_, granularity));
  begin_ = arena.memory_->Reserve(total_bytes_);
}

KvRange::~KvRange() { arena_.Remove(*this); }

int64_t KvRange::SlabsFor(int64_t pages) const {
  return (std::clamp<int64_t>(pages, 0, num_pages_) * page_bytes_ + slab_bytes_ - 1) / slab_bytes_;
}

int64_t KvRange::BytesOf(int64_t slab) const { return std::min(slab_bytes_, total_bytes_ - slab * slab_bytes_); }

void KvRange::Publish() {
  const int64_t bytes = std::min(std::min(slabs_, wanted_) * slab_bytes_, total_bytes_);
  mapped_pages_.store(std::min(bytes / page_bytes_, num_pages_), std::memory_order_release);
}

bool KvRange::EnsureMapped(int64_t pages) {
  std::unique_lock lock(arena_.mutex_);
  least_ = std::max(least_, SlabsFor(pages));
  wanted_ = std::max(wanted_, least_);
  failed_ = false;
  Publish();
  arena_.wake_.notify_one();
  arena_.changed_.wait(lock, [this] { return slabs_ >= least_ || failed_; });
  if (slabs_ < least_) least_ = slabs_;
  return mapped_pages() >= std::min(pages, num_pages_);
}

void KvRange::Request(int64_t pages) {
  const std::lock_guard lock(arena_.mutex_);
  const int64_t wanted = std::max(SlabsFor(pages), least_);
  if (wanted == wanted_) return;
  if (wanted > wanted_ && failed_ && std::chrono::steady_clock::now() - failed_at_ < kRetry) return;
  wanted_ = wanted;
  failed_ = false;
  Publish();
  arena_.wake_.notify_one();
}

KvArena::KvArena(std::unique_ptr<SlabMemory> memory, MemoryBudget& budget, int64_t reserve_bytes, int64_t slab_bytes)
    : memory_(std::move(memory)), budget_(budget), reserve_bytes_(reserve_bytes), slab_bytes_(slab_bytes) {}

KvArena::~KvArena() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

std::shared_ptr<KvRange> KvArena::Reserve(int64_t page_bytes, int64_t num_pages) {
  std::unique_ptr<KvRange> range(new KvRange(*this, page_bytes, num_pages));  // the constructor is private
  const std::lock_guard lock(mutex_);
  ranges_.push_back(range.get());
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  return range;
}

void KvArena::Remove(KvRange& range) {
  {
    std::unique_lock lock(mutex_);
    std::erase(ranges_, &range);
    changed_.wait(lock, [&] { return busy_ != &range; });
  }
  const int64_t bytes = std::min(range.slabs_ * range.slab_bytes_, range.total_bytes_);
  if (bytes > 0) memory_->Unmap(range.begin_, bytes);
  memory_->Release(range.begin_, range.total_bytes_);
  budget_.Taken(-bytes);
  const std::lock_guard lock(mutex_);
  mapped_bytes_ -= bytes;
}

int64_t KvArena::mapped_bytes() const {
  const std::lock_guard lock(mutex_);
  return mapped_bytes_;
}

void KvArena::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    KvRange* range = NextWithWork();
    if (range == nullptr) {
      wake_.wait(lock);
      continue;
    }
    busy_ = range;
    if (range->slabs_ > range->wanted_) {
      UnmapOne(*range, lock);
    } else {
      MapOne(*range, lock);
    }
    busy_ = nullptr;
    changed_.notify_all();
  }
}

KvRange* KvArena::NextWithWork() {
  for (size_t i = 0; i < ranges_.size(); ++i) {
    KvRange* range = ranges_[next_++ % ranges_.size()];
    if (range->slabs_ != range->wanted_) return range;
  }
  return nullptr;
}

// The driver may take its time: nobody waits for the mutex meanwhile.
void KvArena::MapOne(KvRange& range, std::unique_lock<std::mutex>& lock) {
  const int64_t slab = range.slabs_;
  const int64_t bytes = range.BytesOf(slab);
  const bool promised = slab < range.least_;
  lock.unlock();
  const bool mapped =
      MayTake(bytes, promised) && memory_->Map(range.begin_ + slab * range.slab_bytes_, bytes, /*lazily=*/promised);
  if (mapped && !promised) budget_.Taken(bytes);
  lock.lock();
  range.failed_ = !mapped;
  if (mapped) {
    ++range.slabs_;
    mapped_bytes_ += bytes;
  } else {
    range.wanted_ = range.slabs_;
    range.failed_at_ = std::chrono::steady_clock::now();
  }
  range.Publish();
}

void KvArena::UnmapOne(KvRange& range, std::unique_lock<std::mutex>& lock) {
  const int64_t slab = --range.slabs_;
  const int64_t bytes = range.BytesOf(slab);
  lock.unlock();
  memory_->Unmap(range.begin_ + slab * range.slab_bytes_, bytes);
  budget_.Taken(-bytes);
  lock.lock();
  mapped_bytes_ -= bytes;
}

// What a load was promised is in its claim; growth must leave the claims and the reserve alone.
bool KvArena::MayTake(int64_t bytes, bool promised) const {
  return promised ? bytes <= budget_.Free() : bytes + reserve_bytes_ <= budget_.Available();
}

}  // namespace automodeld
