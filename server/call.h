// What every call does at its beginning and its end, whatever its RPC. Reactors derive from it.
//
// A reactor owns itself from Keep() until gRPC says that the call is done; the engine may hold it longer, as a Sink.
#ifndef SERVER_CALL_H_
#define SERVER_CALL_H_

#include <absl/status/statusor.h>
#include <google/protobuf/message.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/metrics.h"
#include "core/model_registry.h"
#include "server/call_gate.h"
#include "server/call_record.h"
#include "server/encode_text.h"
#include "server/worker_pool.h"

namespace automodeld {

// What the services work with. All of it outlives every call.
struct Services {
  ModelRegistry* registry = nullptr;
  Metrics* metrics = nullptr;
  CallGate* gate = nullptr;
  WorkerPool* workers = nullptr;      // tokenizing
  WorkerPool* loaders = nullptr;      // loading and freeing: these take long, and no Generate may wait behind them
  WorkerPool* large_texts = nullptr;  // one thread: see kLargeText

  // Where a text is tokenized.
  WorkerPool* PoolFor(size_t text_bytes) const { return text_bytes > kLargeText ? large_texts : workers; }
};

class Call {
 protected:
  Call(const Services& services, grpc::CallbackServerContext* context, const char* method);
  ~Call() = default;

  // Reads the request. UNAVAILABLE while the daemon drains; else as Parse. First of all.
  absl::Status Enter(const grpc::ByteBuffer& bytes, google::protobuf::Message* request);

  // The model, whose name then stands in log and metrics. INVALID_ARGUMENT if there is no name; else as
  // ModelRegistry::Find.
  absl::StatusOr<std::shared_ptr<const ServedModel>> Find(const std::string& model);

  // Runs `work` on a thread of `pool`. RESOURCE_EXHAUSTED if too many calls wait for one.
  absl::Status Post(WorkerPool* pool, std::function<void()> work);

  // Once the reactor is made, before anything else.
  void Keep(std::shared_ptr<void> self);

  // Logs, counts, and lets go of the reactor, which may then be gone. Last of all, from OnDone.
  void Close(absl::StatusCode code);

  // First of all in OnCancel.
  void SetCancelled();
  bool cancelled() const { return cancelled_.load(); }

  // DEADLINE_EXCEEDED or CANCELLED, whichever it was.
  absl::Status CancelStatus() const;

  absl::Time deadline() const { return deadline_; }
  CallRecord& record() { return record_; }
  const std::string& call_id() const { return record_.id(); }
  const Services& services() const { return services_; }

 private:
  const Services services_;
  grpc::CallbackServerContext* const context_;
  const absl::Time deadline_;
  CallRecord record_;
  std::optional<CallGate::Ticket> ticket_;
  std::atomic<bool> cancelled_ = false;
  std::shared_ptr<void> self_;
};

}  // namespace automodeld

#endif  // SERVER_CALL_H_
