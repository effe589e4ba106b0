// automodeld.v1.InferenceService: one reactor per call. See proto/automodeld/v1/inference.proto.
//
// No gRPC thread ever waits: the request is read and its ranges are checked on it, everything else runs on a worker or
// on the model's own threads.
#ifndef SERVER_INFERENCE_SERVICE_H_
#define SERVER_INFERENCE_SERVICE_H_

#include "automodeld/v1/inference.grpc.pb.h"
#include "server/call.h"

namespace automodeld {

class InferenceService final
    : public v1::InferenceService::WithRawCallbackMethod_Generate<
          v1::InferenceService::WithRawCallbackMethod_Embed<v1::InferenceService::WithRawCallbackMethod_Tokenize<
              v1::InferenceService::WithRawCallbackMethod_Detokenize<v1::InferenceService::Service>>>> {
 public:
  explicit InferenceService(const Services& services) : services_(services) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* answer) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* answer) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* answer) override;

 private:
  const Services services_;
};

}  // namespace automodeld

#endif  // SERVER_INFERENCE_SERVICE_H_
