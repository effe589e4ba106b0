// Pieces of tensors, read by a few threads ahead of whoever takes them, in order, through a ring of buffers.
//
//   ReadAhead ahead(files, pieces, memory, slot_bytes);   // the first ring-full is being read already
//   ASSIGN_OR_RETURN(std::span<std::byte> bytes, ahead.Next());   // of pieces[0]; waits for them
//   ...                                                           // used, or on their way to a device
//   ahead.Release();                                              // the oldest one's place may be filled anew
//
// Whoever takes all before releasing any waits forever, unless the ring holds all. The destructor stops reading: it
// waits at most for the pieces in hand. Threads: Next and Release from one. Torch-free.
#ifndef CORE_READ_AHEAD_H_
#define CORE_READ_AHEAD_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <stop_token>
#include <thread>
#include <vector>

#include "core/safetensors.h"

namespace automodeld {

class ReadAhead {
 public:
  struct Piece {
    const StoredTensor* tensor;
    uint64_t offset;  // in the tensor, bytes
    size_t bytes;     // at most slot_bytes
  };

  // `memory` is the ring: as many slots of `slot_bytes` as it holds, one at least. It outlives the object, as `files`.
  ReadAhead(const Safetensors& files, std::vector<Piece> pieces, std::span<std::byte> memory, size_t slot_bytes);

  // The next piece's bytes, somewhere in the ring. There must be one. FAILED_PRECONDITION: they cannot be read.
  absl::StatusOr<std::span<std::byte>> Next();
  // Gives back the oldest piece that Next gave.
  void Release();

 private:
  struct Slot {
    bool is_ready = false;
    absl::Status status;
  };

  void Run(const std::stop_token& stop);
  std::span<std::byte> Place(size_t piece) const;

  const Safetensors& files_;
  const std::vector<Piece> pieces_;
  const std::span<std::byte> memory_;
  const size_t slot_bytes_;
  std::mutex mutex_;
  std::condition_variable_any freed_;
  std::condition_variable ready_;
  std::vector<Slot> slots_;
  size_t begun_ = 0;                   // pieces that a thread has taken up
  size_t given_ = 0;                   // pieces that Next gave
  size_t released_ = 0;                // pieces whose place is free again
  std::vector<std::jthread> threads_;  // last: they stop before the rest goes
};

}  // namespace automodeld

#endif  // CORE_READ_AHEAD_H_
