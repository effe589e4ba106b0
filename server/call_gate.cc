#include "server/call_gate.h"

namespace automodeld {

std::optional<CallGate::Ticket> CallGate::Enter() {
  std::lock_guard lock(mutex_);
  if (closed_) return std::nullopt;
  ++calls_;
  return Ticket(this);
}

void CallGate::Close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
}

bool CallGate::WaitIdle(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return idle_.wait_until(lock, deadline, [this] { return calls_ == 0; });
}

size_t CallGate::calls() const {
  std::lock_guard lock(mutex_);
  return calls_;
}

void CallGate::Leave() {
  std::lock_guard lock(mutex_);
  if (--calls_ == 0) idle_.notify_all();
}

}  // namespace automodeld
