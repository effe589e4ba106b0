// One UnloadModel call. The model drains by itself, with no thread waiting for it; a call whose deadline passes or that
// is cancelled before answers so, and the model goes on draining and is unloaded in the end all the same.
//
//   return UnloadCall::Start(services, context, request, answer, options);   // in ModelService::UnloadModel
#ifndef SERVER_UNLOAD_CALL_H_
#define SERVER_UNLOAD_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <memory>

#include "automodeld/v1/models.pb.h"
#include "server/call.h"
#include "server/load_call.h"

namespace automodeld {

class UnloadCall final : public grpc::ServerUnaryReactor, private Call {
 public:
  static grpc::ServerUnaryReactor* Start(const Services& services, grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request, grpc::ByteBuffer* answer,
                                         const ModelServiceOptions& options);

 private:
  UnloadCall(const Services& services, grpc::CallbackServerContext* context, grpc::ByteBuffer* answer)
      : Call(services, context, "UnloadModel"), answer_(answer) {}

  absl::Status Admit(const std::shared_ptr<UnloadCall>& self, const grpc::ByteBuffer& bytes,
                     const ModelServiceOptions& options);
  void Free(const std::string& model, const std::shared_ptr<const ServedModel>& served);
  void End(absl::Status status);  // the first counts

  void OnCancel() override;
  void OnDone() override { Close(code_.load()); }

  grpc::ByteBuffer* const answer_;
  std::atomic<bool> ended_ = false;
  std::atomic<absl::StatusCode> code_ = absl::StatusCode::kOk;
};

}  // namespace automodeld

#endif  // SERVER_UNLOAD_CALL_H_
