// A unary call whose answer is computed in one go: Tokenize, Detokenize, ListModels, GetModel.
//
//   using GetModelCall = UnaryCall<v1::GetModelRequest, v1::GetModelResponse>;
//   return GetModelCall::Start(services, context, "GetModel", request, response,
//                              [](GetModelCall& call) { return Fill(call.request(), call.response()); });
//
// The work runs at once on gRPC's thread (Start), or on a thread of `pool` (StartOn) if it takes long.
#ifndef SERVER_UNARY_CALL_H_
#define SERVER_UNARY_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <utility>

#include "core/guarded.h"
#include "core/status.h"
#include "server/call.h"
#include "server/convert.h"
#include "server/wire.h"

namespace automodeld {

template <typename Request, typename Response>
class UnaryCall final : public grpc::ServerUnaryReactor, private Call {
 public:
  // Fills response(), which is sent if the status is OK.
  using Work = std::function<absl::Status(UnaryCall& call)>;

  // `answer` lives until gRPC says that the call is done.
  static grpc::ServerUnaryReactor* Start(const Services& services, grpc::CallbackServerContext* context,
                                         const char* method, const grpc::ByteBuffer* request, grpc::ByteBuffer* answer,
                                         const Work& work) {
    const std::shared_ptr<UnaryCall> call(new UnaryCall(services, context, method, answer));
    call->Keep(call);
    const absl::Status entered = Guarded([&] { return call->Enter(*request, &call->request_); });
    entered.ok() ? call->Run(work) : call->End(entered);
    return call.get();
  }

  static grpc::ServerUnaryReactor* StartOn(WorkerPool* pool, const Services& services,
                                           grpc::CallbackServerContext* context, const char* method,
                                           const grpc::ByteBuffer* request, grpc::ByteBuffer* answer, Work work) {
    const std::shared_ptr<UnaryCall> call(new UnaryCall(services, context, method, answer));
    call->Keep(call);
    absl::Status status = Guarded([&]() -> absl::Status {
      RETURN_IF_ERROR(call->Enter(*request, &call->request_));
      return call->Post(pool, [call, work = std::move(work)] { call->Run(work); });
    });
    if (!status.ok()) call->End(std::move(status));
    return call.get();
  }

  const Request& request() const { return request_; }
  Response* response() { return &response_; }
  using Call::Find;
  using Call::record;

 private:
  UnaryCall(const Services& services, grpc::CallbackServerContext* context, const char* method,
            grpc::ByteBuffer* answer)
      : Call(services, context, method), answer_(answer) {}

  void Run(const Work& work) {
    End(cancelled() ? CancelStatus() : Guarded([&] { return work(*this); }));
  }

  void End(absl::Status status) {
    if (status.ok()) status = Serialize(response_, answer_);
    code_ = status.code();
    Finish(ToGrpc(status));
  }

  void OnCancel() override { SetCancelled(); }
  void OnDone() override { Close(code_.load()); }

  grpc::ByteBuffer* const answer_;
  Request request_;
  Response response_;
  std::atomic<absl::StatusCode> code_ = absl::StatusCode::kOk;
};

}  // namespace automodeld

#endif  // SERVER_UNARY_CALL_H_
