#include "server/load_call.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "core/guarded.h"
#include "core/status.h"
#include "server/convert_load.h"
#include "server/load_log.h"
#include "server/model_path.h"

namespace automodeld {

absl::Status CheckMayChange(const ModelServiceOptions& options, std::string_view method) {
  if (!options.read_only) return absl::OkStatus();
  return absl::PermissionDeniedError(fmt::format("{}: answered only on --admin-listen", method));
}

void LoadsInProgress::Add(LoadCall* load) {
  std::lock_guard lock(mutex_);
  loads_.insert(load);
  if (stopped_) load->Stop();
}

void LoadsInProgress::Remove(LoadCall* load) {
  std::lock_guard lock(mutex_);
  loads_.erase(load);
}

void LoadsInProgress::StopAll() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  for (LoadCall* load : loads_) load->Stop();
}

LoadCall::LoadCall(const Services& services, grpc::CallbackServerContext* context, ModelServiceOptions options,
                   LoadsInProgress* loads)
    : StreamCall(services, context, "LoadModel"), options_(std::move(options)), loads_(loads) {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* LoadCall::Start(const Services& services,
                                                            grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer* request,
                                                            const ModelServiceOptions& options,
                                                            LoadsInProgress* loads) {
  const std::shared_ptr<LoadCall> call(new LoadCall(services, context, options, loads));
  call->Keep(call);
  absl::Status status = Guarded([&] { return call->Admit(call, *request); });
  if (!status.ok()) call->End(std::move(status));
  return call.get();
}

absl::Status LoadCall::Admit(const std::shared_ptr<LoadCall>& self, const grpc::ByteBuffer& bytes) {
  v1::LoadModelRequest request;
  RETURN_IF_ERROR(Enter(bytes, &request));
  RETURN_IF_ERROR(CheckMayChange(options_, "LoadModel"));
  ASSIGN_OR_RETURN(LoadOptions options, ToLoadOptions(request));
  return Post(services().loaders, [self, options = std::move(options)] { self->Run(options); });
}

void LoadCall::Run(const LoadOptions& options) {
  loads_->Add(this);
  absl::StatusOr<LoadReport> report = absl::UnknownError("");
  const absl::Status status = Guarded([&] { return (report = Load(options)).status(); });
  loads_->Remove(this);
  if (!status.ok()) return End(Explain(status));
  if (!options.check_only) record().SetModel(options.model);
  LogLoaded(*report, options.check_only);
  v1::LoadModelResponse last;
  *last.mutable_report() = ToProto(*report);
  End(absl::OkStatus(), std::move(last));
}

absl::StatusOr<LoadReport> LoadCall::Load(const LoadOptions& options) {
  if (cancelled()) return CancelStatus();
  LoadOptions resolved = options;
  if (!options.path.empty()) {
    ASSIGN_OR_RETURN(const std::filesystem::path folder,
                     ResolveModelPath(options_.model_root, options.path, options.revision));
    resolved.path = folder.string();
  }
  LoadContext context;
  context.cancelled = &stopped_;
  context.progress = [this](const LoadProgress& progress) {
    v1::LoadModelResponse message;
    *message.mutable_progress() = ToProto(progress);
    Send(std::move(message));
  };
  return services().registry->Load(resolved, context);
}

// The client may have waited less long than the load, and is told nothing of this machine's folders; the log has all.
absl::Status LoadCall::Explain(const absl::Status& status) const {
  if (status.code() == absl::StatusCode::kCancelled && cancelled()) return CancelStatus();
  if (status.code() == absl::StatusCode::kCancelled) return absl::UnavailableError("draining: the load was stopped");
  const std::string message = WithoutRoot(std::string(status.message()), options_.model_root);
  spdlog::warn("load id={} failed: {}", call_id(), message);
  return absl::Status(status.code(), message);
}

void LoadCall::Enqueue(v1::LoadModelResponse message, std::deque<v1::LoadModelResponse>* waiting) {
  waiting->clear();
  waiting->push_back(std::move(message));
}

}  // namespace automodeld
