#include "server/call.h"

#include <fmt/format.h>

#include <utility>

#include "server/convert.h"
#include "server/wire.h"

// A reactor is made before gRPC calls its OnCancel on another thread: atomics in gRPC's library order the two, which
// ThreadSanitizer does not see.
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define TELL_THREAD_SANITIZER(order, object) __tsan_##order(object)
#else
#define TELL_THREAD_SANITIZER(order, object)
#endif

namespace automodeld {

Call::Call(const Services& services, grpc::CallbackServerContext* context, const char* method)
    : services_(services),
      context_(context),
      deadline_(ToTime(context->deadline())),
      record_(services.metrics, method) {}

void Call::Keep(std::shared_ptr<void> self) {
  self_ = std::move(self);
  TELL_THREAD_SANITIZER(release, this);
}

void Call::SetCancelled() {
  TELL_THREAD_SANITIZER(acquire, this);
  cancelled_.store(true);
}

absl::Status Call::Enter(const grpc::ByteBuffer& bytes, google::protobuf::Message* request) {
  ticket_ = services_.gate->Enter();
  if (!ticket_) return absl::UnavailableError("draining: the daemon takes no new calls");
  return Parse(bytes, request);
}

absl::StatusOr<std::shared_ptr<const ServedModel>> Call::Find(const std::string& model) {
  if (model.empty()) return Missing("model");
  auto found = services_.registry->Find(model);
  if (found.ok()) record_.SetModel(model);
  return found;
}

absl::Status Call::Post(WorkerPool* pool, std::function<void()> work) {
  if (pool->Post(std::move(work))) return absl::OkStatus();
  const int limit = pool->max_waiting();
  return absl::ResourceExhaustedError(
      fmt::format("queue is full: {} calls waiting for a thread (--max-queue-size {})", limit, limit));
}

void Call::Close(absl::StatusCode code) {
  const bool lost = code == absl::StatusCode::kOk && context_->IsCancelled();
  record_.End(lost ? CancelStatus().code() : code);
  ticket_.reset();
  std::exchange(self_, nullptr).reset();
}

absl::Status Call::CancelStatus() const {
  if (absl::Now() >= deadline_) return absl::DeadlineExceededError("the call's deadline has passed");
  return absl::CancelledError("the client cancelled the call");
}

}  // namespace automodeld
