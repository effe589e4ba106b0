#include "server/unload_call.h"

#include <utility>

#include "core/guarded.h"
#include "core/status.h"
#include "server/convert.h"
#include "server/wire.h"

namespace automodeld {

grpc::ServerUnaryReactor* UnloadCall::Start(const Services& services, grpc::CallbackServerContext* context,
                                            const grpc::ByteBuffer* request, grpc::ByteBuffer* answer,
                                            const ModelServiceOptions& options) {
  const std::shared_ptr<UnloadCall> call(new UnloadCall(services, context, answer));
  call->Keep(call);
  absl::Status status = Guarded([&] { return call->Admit(call, *request, options); });
  if (!status.ok()) call->End(std::move(status));
  return call.get();
}

absl::Status UnloadCall::Admit(const std::shared_ptr<UnloadCall>& self, const grpc::ByteBuffer& bytes,
                               const ModelServiceOptions& options) {
  v1::UnloadModelRequest request;
  RETURN_IF_ERROR(Enter(bytes, &request));
  RETURN_IF_ERROR(CheckMayChange(options, "UnloadModel"));
  const std::string& model = request.model();
  if (model.empty()) return Missing("model");
  ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> served, services().registry->TakeOutOfService(model));
  if (served == nullptr) {
    End(absl::OkStatus());
    return absl::OkStatus();
  }
  record().SetModel(model);
  const bool end_all = request.has_drain() && !request.drain();
  const auto free = [self, model, served] { self->Free(model, served); };
  served->engine->StartDrain(end_all, [free, loaders = services().loaders] { loaders->PostAlways(free); });
  return absl::OkStatus();
}

void UnloadCall::Free(const std::string& model, const std::shared_ptr<const ServedModel>& served) {
  End(Guarded([&] {
    services().registry->Free(model, served);
    return absl::OkStatus();
  }));
}

void UnloadCall::End(absl::Status status) {
  if (ended_.exchange(true)) return;
  if (status.ok()) status = Serialize(v1::UnloadModelResponse(), answer_);
  code_ = status.code();
  Finish(ToGrpc(status));
}

void UnloadCall::OnCancel() {
  SetCancelled();
  End(CancelStatus());
}

}  // namespace automodeld
