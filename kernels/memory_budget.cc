#include "kernels/memory_budget.h"

#include <algorithm>
#include <utility>

namespace automodeld {

MemoryBudget::Claim::Claim(Claim&& other) noexcept
    : budget_(std::exchange(other.budget_, nullptr)), bytes_(other.bytes_) {}

MemoryBudget::Claim::~Claim() {
  if (budget_ != nullptr) budget_->End(bytes_, /*taken=*/false);
}

bool MemoryBudget::Claim::Resize(int64_t bytes) {
  const std::lock_guard lock(budget_->mutex_);
  if (budget_->claimed_ - bytes_ + bytes > budget_->at_first_claim_) return false;
  budget_->claimed_ += bytes - bytes_;
  bytes_ = bytes;
  return true;
}

void MemoryBudget::Claim::Settle() { std::exchange(budget_, nullptr)->End(bytes_, /*taken=*/true); }

int64_t MemoryBudget::Available() const {
  const std::lock_guard lock(mutex_);
  return AvailableLocked();
}

int64_t MemoryBudget::AvailableLocked() const {
  const int64_t free = free_bytes_();
  return num_claims_ == 0 ? free : std::min(free, at_first_claim_ - claimed_);
}

std::optional<MemoryBudget::Claim> MemoryBudget::TryClaim(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  const int64_t available = AvailableLocked();
  if (bytes > available) return std::nullopt;
  if (num_claims_ == 0) at_first_claim_ = available;
  ++num_claims_;
  claimed_ += bytes;
  return Claim(*this, bytes);
}

void MemoryBudget::Taken(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  at_first_claim_ -= bytes;
}

void MemoryBudget::End(int64_t bytes, bool taken) {
  const std::lock_guard lock(mutex_);
  --num_claims_;
  claimed_ -= bytes;
  if (taken) at_first_claim_ -= bytes;
}

}  // namespace automodeld
