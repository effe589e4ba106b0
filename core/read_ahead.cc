#include "core/read_ahead.h"

#include <algorithm>
#include <utility>

#include "core/status.h"

namespace automodeld {

namespace {

constexpr size_t kMostThreads = 8;

}  // namespace

ReadAhead::ReadAhead(const Safetensors& files, std::vector<Piece> pieces, std::span<std::byte> memory,
                     size_t slot_bytes)
    : files_(files),
      pieces_(std::move(pieces)),
      memory_(memory),
      slot_bytes_(slot_bytes),
      slots_(std::max<size_t>(1, memory.size() / slot_bytes)) {
  const size_t cores = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, kMostThreads);
  for (size_t i = 0; i < std::min({cores, slots_.size(), pieces_.size()}); ++i) {
    threads_.emplace_back([this](const std::stop_token& stop) { Run(stop); });
  }
}

std::span<std::byte> ReadAhead::Place(size_t piece) const {
  return memory_.subspan(piece % slots_.size() * slot_bytes_, pieces_[piece].bytes);
}

void ReadAhead::Run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  const auto is_free = [this] { return begun_ == pieces_.size() || begun_ < released_ + slots_.size(); };
  while (freed_.wait(lock, stop, is_free) && begun_ < pieces_.size() && !stop.stop_requested()) {
    const size_t i = begun_++;
    lock.unlock();
    absl::Status status = files_.Read(*pieces_[i].tensor, pieces_[i].offset, Place(i));
    lock.lock();
    slots_[i % slots_.size()] = {true, std::move(status)};
    ready_.notify_one();
  }
}

absl::StatusOr<std::span<std::byte>> ReadAhead::Next() {
  std::unique_lock lock(mutex_);
  Slot& slot = slots_[given_ % slots_.size()];
  ready_.wait(lock, [&slot] { return slot.is_ready; });
  slot.is_ready = false;
  const size_t piece = given_++;
  RETURN_IF_ERROR(slot.status);
  return Place(piece);
}

void ReadAhead::Release() {
  const std::scoped_lock lock(mutex_);
  ++released_;
  freed_.notify_all();
}

}  // namespace automodeld
