// How much of a device's memory may still be promised, when models load and grow beside one another.
//
//   MemoryBudget budget([] { return AvailableBytes(device); });
//   std::optional<MemoryBudget::Claim> claim = budget.TryClaim(bytes);   // nothing: that much is not there
//   …                                                                    // the load takes it, bit by bit
//   claim->Settle();                                                     // it is taken: no promise any more
//
// What is free at the moment says too much while a load has not yet taken what it was promised: Available() is also at
// most what was free when the oldest claim began, less all claims. Threads: any.
#ifndef KERNELS_MEMORY_BUDGET_H_
#define KERNELS_MEMORY_BUDGET_H_

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>

namespace automodeld {

class MemoryBudget {
 public:
  // A promise; given back when it is destroyed. The budget must outlive it.
  class Claim {
   public:
    Claim(Claim&& other) noexcept;
    Claim& operator=(Claim&&) = delete;
    ~Claim();

    // Makes it larger or smaller, in place of what was promised. false, and nothing changed: so much was never there.
    bool Resize(int64_t bytes);
    // What was promised has been taken for good.
    void Settle();

   private:
    friend class MemoryBudget;
    Claim(MemoryBudget& budget, int64_t bytes) : budget_(&budget), bytes_(bytes) {}

    MemoryBudget* budget_;  // null: moved from, or settled
    int64_t bytes_;
  };

  // free_bytes: what is free on the device at this moment.
  explicit MemoryBudget(std::function<int64_t()> free_bytes) : free_bytes_(std::move(free_bytes)) {}

  int64_t Free() const { return free_bytes_(); }
  int64_t Available() const;
  // Nothing: more than Available().
  std::optional<Claim> TryClaim(int64_t bytes);
  // Somebody took so much outside of a claim; negative: gave it back.
  void Taken(int64_t bytes);

 private:
  int64_t AvailableLocked() const;
  void End(int64_t bytes, bool taken);

  const std::function<int64_t()> free_bytes_;
  mutable std::mutex mutex_;
  int num_claims_ = 0;
  int64_t claimed_ = 0;
  int64_t at_first_claim_ = 0;  // what was free then, less what others than the claims took since
};

}  // namespace automodeld

#endif  // KERNELS_MEMORY_BUDGET_H_
