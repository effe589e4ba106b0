// One Embed call: checks, tokenizes, and submits every input as a request of its own. Long texts and many are tokenized
// by several workers, few and short ones and token ids at once, where the call comes in.
//
//   return EmbedCall::Start(services, context, request, response);   // in InferenceService::Embed
//
// Threads: Start on gRPC's, Encode there or on workers, the Sink on the model's delivery thread, cancelling on gRPC's.
#ifndef SERVER_EMBED_CALL_H_
#define SERVER_EMBED_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "automodeld/v1/inference.pb.h"
#include "server/call.h"
#include "server/convert_embed.h"

namespace automodeld {

class EmbedCall final : public grpc::ServerUnaryReactor, public Sink, private Call {
 public:
  static grpc::ServerUnaryReactor* Start(const Services& services, grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request, grpc::ByteBuffer* answer);

 private:
  using Requests = std::vector<std::shared_ptr<Request>>;

  EmbedCall(const Services& services, grpc::CallbackServerContext* context, grpc::ByteBuffer* answer)
      : Call(services, context, "Embed"), answer_(answer) {}

  // What several threads tokenize, part by part; let go of as soon as all is done.
  struct Work {
    v1::EmbedRequest request;
    std::shared_ptr<const ServedModel> model;
    Requests made;  // by input; null: it has an error
    int num_inputs = 0;
    std::atomic<int> next = 0;  // the first input that no thread has taken
    std::atomic<int> left = 0;  // inputs that are not done
  };

  absl::Status Admit(const std::shared_ptr<EmbedCall>& self, const grpc::ByteBuffer& bytes);

  // Takes parts until none is left; whoever ends the last one submits.
  void Encode(const std::shared_ptr<EmbedCall>& self, Work& work);
  // One request per input that is fit; the others have their error in the response.
  absl::Status MakeRequests(const std::shared_ptr<EmbedCall>& self, Work& work, int begin, int end);
  absl::StatusOr<std::shared_ptr<Request>> MakeRequest(const std::shared_ptr<EmbedCall>& self,
                                                       const v1::EmbedInput& input, int index,
                                                       const ServedModel& model) const;
  void Submit(Work& work);
  void Ended(const absl::Status& status, const RequestUsage& usage, size_t num_requests);
  void End(absl::Status status);

  void OnTokens(int index, Delta delta) override;
  void OnEmbedding(int index, std::vector<float> values) override;
  void OnFinish(int index, const absl::Status& status, FinishReason reason, const RequestUsage& usage) override;

  void OnCancel() override;
  void OnDone() override;

  grpc::ByteBuffer* const answer_;
  v1::EmbedResponse response_;
  EmbedPlan plan_;

  std::mutex mutex_;
  Requests requests_;  // those that run
  size_t unfinished_ = 0;
  RequestUsage usage_;   // of all that finished
  absl::Status status_;  // of the first that failed, in tokenizing or in the engine, and of the call
};

}  // namespace automodeld

#endif  // SERVER_EMBED_CALL_H_
