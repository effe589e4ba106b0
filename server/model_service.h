// automodeld.v1.ModelService: load with progress, unload, list, get. See proto/automodeld/v1/models.proto.
#ifndef SERVER_MODEL_SERVICE_H_
#define SERVER_MODEL_SERVICE_H_

#include "automodeld/v1/models.grpc.pb.h"
#include "server/call.h"
#include "server/load_call.h"

namespace automodeld {

class ModelService final
    : public v1::ModelService::WithRawCallbackMethod_LoadModel<
          v1::ModelService::WithRawCallbackMethod_UnloadModel<v1::ModelService::WithRawCallbackMethod_ListModels<
              v1::ModelService::WithRawCallbackMethod_GetModel<v1::ModelService::Service>>>> {
 public:
  // `loads` outlives it.
  ModelService(const Services& services, ModelServiceOptions options, LoadsInProgress* loads);

  grpc::ServerWriteReactor<grpc::ByteBuffer>* LoadModel(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* answer) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* answer) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* answer) override;

 private:
  const Services services_;
  const ModelServiceOptions options_;
  LoadsInProgress* const loads_;
};

}  // namespace automodeld

#endif  // SERVER_MODEL_SERVICE_H_
