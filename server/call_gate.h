// Counts the calls in progress, and refuses new ones once the daemon drains.
//
//   std::optional<CallGate::Ticket> ticket = gate.Enter();
//   if (!ticket) return Unavailable("draining");
//   ...                       // the call is in progress until the ticket goes
//
//   gate.Close();             // from now on Enter() gives none
//   gate.WaitIdle(deadline);  // until the last ticket is gone
//
// Any thread.
#ifndef SERVER_CALL_GATE_H_
#define SERVER_CALL_GATE_H_

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>

namespace automodeld {

class CallGate {
 public:
  // Held as long as the call is in progress. The gate must outlive it.
  class Ticket {
   public:
    Ticket(Ticket&&) = default;
    Ticket& operator=(Ticket&&) = default;

   private:
    friend class CallGate;
    struct Leave {
      void operator()(CallGate* gate) const { gate->Leave(); }
    };
    explicit Ticket(CallGate* gate) : gate_(gate) {}
    std::unique_ptr<CallGate, Leave> gate_;
  };

  // Nothing if the gate is closed.
  std::optional<Ticket> Enter();

  void Close();

  // Waits until no call is in progress; false if `deadline` came first.
  bool WaitIdle(std::chrono::steady_clock::time_point deadline);

  size_t calls() const;

 private:
  void Leave();

  mutable std::mutex mutex_;
  std::condition_variable idle_;
  size_t calls_ = 0;
  bool closed_ = false;
};

}  // namespace automodeld

#endif  // SERVER_CALL_GATE_H_
