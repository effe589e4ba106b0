// One Generate call: checks, tokenizes on a worker thread, submits `n` requests to the engine and streams their
// answers.
//
//   return GenerateCall::Start(services, context, request);   // in InferenceService::Generate
//
// Threads: Start on gRPC's, Prepare on a worker, the Sink on the model's delivery thread, cancelling on gRPC's.
#ifndef SERVER_GENERATE_CALL_H_
#define SERVER_GENERATE_CALL_H_

#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "automodeld/v1/inference.pb.h"
#include "server/stream_call.h"

namespace automodeld {

class GenerateCall final : public StreamCall<v1::GenerateResponse>, public Sink {
 public:
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(const Services& services,
                                                           grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request);

 private:
  using StreamCall::StreamCall;
  using Requests = std::vector<std::shared_ptr<Request>>;

  absl::Status Admit(const std::shared_ptr<GenerateCall>& self, const grpc::ByteBuffer& bytes);
  void Prepare(const std::shared_ptr<GenerateCall>& self, const v1::GenerateRequest& request, const ServedModel& model);
  absl::StatusOr<Requests> MakeRequests(const std::shared_ptr<GenerateCall>& self, const v1::GenerateRequest& request,
                                        const ServedModel& model) const;
  void Submit(const Requests& requests, Engine* engine);
  void Ended(const absl::Status& status, const RequestUsage& usage, size_t num_requests);

  void OnTokens(int index, Delta delta) override;
  void OnEmbedding(int index, std::vector<float> values) override;
  void OnFinish(int index, const absl::Status& status, FinishReason reason, const RequestUsage& usage) override;

  void Enqueue(v1::GenerateResponse message, std::deque<v1::GenerateResponse>* waiting) override;
  void Abandon() override;

  std::mutex mutex_;
  Requests requests_;  // those that run
  size_t unfinished_ = 0;
  absl::Status status_;  // of the first that failed
  RequestUsage usage_;   // of all that finished
};

}  // namespace automodeld

#endif  // SERVER_GENERATE_CALL_H_
