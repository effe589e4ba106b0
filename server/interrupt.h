// Ctrl-C during a call: the call is cancelled, and the command ends in order.
//
//   Interrupt interrupt;                      // before the channel: gRPC's threads must not take the signal
//   grpc::ClientContext context;
//   const auto scope = interrupt.Cancels(&context);
//   ... stub->Generate(&context, request) ...
//   if (interrupt.seen()) return kExitInterrupted;
//
// One at a time in a process. The rest is safe from any thread.
#ifndef SERVER_INTERRUPT_H_
#define SERVER_INTERRUPT_H_

#include <grpcpp/client_context.h>
#include <signal.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

namespace automodeld {

class Interrupt {
 public:
  Interrupt();   // blocks SIGINT in this thread and in those it starts from now on
  ~Interrupt();  // puts back what was
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // As long as what it returns lives, SIGINT cancels the call; at once if it has come before.
  struct Forget {
    Interrupt* interrupt;
    void operator()(grpc::ClientContext* context) const { interrupt->Remove(context); }
  };
  using Scope = std::unique_ptr<grpc::ClientContext, Forget>;
  [[nodiscard]] Scope Cancels(grpc::ClientContext* context);

  bool seen() const { return seen_; }

 private:
  void Remove(grpc::ClientContext* context);
  void Watch();

  sigset_t before_{};
  int signals_ = -1;  // readable when SIGINT has come
  int end_ = -1;      // readable when the watcher shall end
  std::atomic<bool> seen_ = false;
  std::mutex mutex_;
  std::set<grpc::ClientContext*> contexts_;
  std::thread watcher_;
};

}  // namespace automodeld

#endif  // SERVER_INTERRUPT_H_
