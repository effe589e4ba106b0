#include "server/model_service.h"

#include <utility>

#include "core/status.h"
#include "server/convert.h"
#include "server/convert_load.h"
#include "server/model_path.h"
#include "server/unary_call.h"
#include "server/unload_call.h"

namespace automodeld {
namespace {

using ListModelsCall = UnaryCall<v1::ListModelsRequest, v1::ListModelsResponse>;
using GetModelCall = UnaryCall<v1::GetModelRequest, v1::GetModelResponse>;

// Without this machine's folders in the error.
v1::ModelStatus ToProto(ModelStatus status, const ModelServiceOptions& options) {
  if (!status.error.empty()) status.error = WithoutRoot(status.error, options.model_root);
  return ToProto(status);
}

absl::Status Get(const ModelRegistry& registry, const std::string& model, const ModelServiceOptions& options,
                 v1::GetModelResponse* response) {
  if (model.empty()) return Missing("model");
  ASSIGN_OR_RETURN(const ModelStatus status, registry.Get(model));
  *response->mutable_status() = ToProto(status, options);
  if (status.served != nullptr) *response->mutable_report() = ToProto(status.served->report);
  return absl::OkStatus();
}

}  // namespace

ModelService::ModelService(const Services& services, ModelServiceOptions options, LoadsInProgress* loads)
    : services_(services), options_(std::move(options)), loads_(loads) {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* ModelService::LoadModel(grpc::CallbackServerContext* context,
                                                                    const grpc::ByteBuffer* request) {
  return LoadCall::Start(services_, context, request, options_, loads_);
}

grpc::ServerUnaryReactor* ModelService::UnloadModel(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request, grpc::ByteBuffer* answer) {
  return UnloadCall::Start(services_, context, request, answer, options_);
}

grpc::ServerUnaryReactor* ModelService::ListModels(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request, grpc::ByteBuffer* answer) {
  return ListModelsCall::Start(services_, context, "ListModels", request, answer, [this](ListModelsCall& call) {
    for (const ModelStatus& status : services_.registry->List()) {
      *call.response()->add_models() = ToProto(status, options_);
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ModelService::GetModel(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                                 grpc::ByteBuffer* answer) {
  return GetModelCall::Start(services_, context, "GetModel", request, answer,
                             [this](GetModelCall& call) -> absl::Status {
                               const std::string& model = call.request().model();
                               RETURN_IF_ERROR(Get(*services_.registry, model, options_, call.response()));
                               call.record().SetModel(model);
                               return absl::OkStatus();
                             });
}

}  // namespace automodeld
