#include "server/generate_call.h"

#include <algorithm>
#include <utility>

#include "core/guarded.h"
#include "core/status.h"
#include "server/check_generate.h"
#include "server/convert_generate.h"

namespace automodeld {
namespace {

constexpr int kMaxJoinedTokens = 4096;  // in one message: it must stay below the 4 MiB that clients take

// The prompt is the same for all completions; the times are those of the slowest.
void Add(const RequestUsage& usage, RequestUsage* sum) {
  sum->prompt_tokens = std::max(sum->prompt_tokens, usage.prompt_tokens);
  sum->cached_tokens = std::max(sum->cached_tokens, usage.cached_tokens);
  sum->completion_tokens += usage.completion_tokens;
  sum->queue = std::max(sum->queue, usage.queue);
  sum->prefill = std::max(sum->prefill, usage.prefill);
  sum->decode = std::max(sum->decode, usage.decode);
}

void Join(const v1::GenerateResponse& next, v1::GenerateResponse* waiting) {
  waiting->mutable_text()->append(next.text());
  waiting->mutable_token_ids()->MergeFrom(next.token_ids());
  waiting->mutable_logprobs()->MergeFrom(next.logprobs());
  waiting->set_finish_reason(next.finish_reason());
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateCall::Start(const Services& services,
                                                                grpc::CallbackServerContext* context,
                                                                const grpc::ByteBuffer* request) {
  const std::shared_ptr<GenerateCall> call(new GenerateCall(services, context, "Generate"));
  call->Keep(call);
  absl::Status status = Guarded([&] { return call->Admit(call, *request); });
  if (!status.ok()) call->End(std::move(status));
  return call.get();
}

absl::Status GenerateCall::Admit(const std::shared_ptr<GenerateCall>& self, const grpc::ByteBuffer& bytes) {
  const auto request = std::make_shared<v1::GenerateRequest>();  // let go of as soon as it is tokenized
  RETURN_IF_ERROR(Enter(bytes, request.get()));
  ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model, Find(request->model()));
  RETURN_IF_ERROR(CheckGenerate(*request, *model));
  return Post(services().PoolFor(bytes.Length()), [self, request, model] { self->Prepare(self, *request, *model); });
}

void GenerateCall::Prepare(const std::shared_ptr<GenerateCall>& self, const v1::GenerateRequest& request,
                           const ServedModel& model) {
  if (cancelled()) return End(CancelStatus());
  Requests requests;
  const absl::Status status = Guarded([&] {
    ASSIGN_OR_RETURN(requests, MakeRequests(self, request, model));
    return absl::OkStatus();
  });
  status.ok() ? Submit(requests, model.engine.get()) : End(status);
}

absl::StatusOr<GenerateCall::Requests> GenerateCall::MakeRequests(const std::shared_ptr<GenerateCall>& self,
                                                                  const v1::GenerateRequest& request,
                                                                  const ServedModel& model) const {
  const absl::Time arrival = absl::Now();
  ASSIGN_OR_RETURN(const std::vector<TokenId> prompt, EncodePrompt(request, model));
  ASSIGN_OR_RETURN(const SamplingParams sampling, ToSampling(request.sampling(), model, prompt.size()));
  Requests requests(static_cast<size_t>(request.sampling().has_n() ? request.sampling().n() : 1));
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i] = std::make_shared<Request>();
    requests[i]->id = call_id();
    requests[i]->index = static_cast<int>(i);
    requests[i]->prompt = prompt;
    requests[i]->sampling = sampling;
    requests[i]->sampling.seed += i;
    requests[i]->priority = request.priority();
    requests[i]->arrival = arrival;
    requests[i]->deadline = deadline();
    requests[i]->sink = self;
  }
  return requests;
}

void GenerateCall::Submit(const Requests& requests, Engine* engine) {
  {
    std::lock_guard lock(mutex_);
    requests_ = requests;
    unfinished_ = requests.size();
  }
  if (cancelled()) Abandon();  // it may have come before there was anything to cancel
  const absl::Status status = engine->Submit(requests);
  if (!status.ok()) Ended(status, {}, requests.size());
}

void GenerateCall::Ended(const absl::Status& status, const RequestUsage& usage, size_t num_requests) {
  std::unique_lock lock(mutex_);
  Add(usage, &usage_);
  if (status_.ok()) status_ = status;
  unfinished_ -= num_requests;
  if (!status.ok()) {
    for (const auto& request : requests_) request->Cancel();
  }
  if (unfinished_ > 0) return;
  requests_.clear();
  lock.unlock();
  record().AddTokens(usage_.completion_tokens);
  v1::GenerateResponse last;
  *last.mutable_usage() = ToProto(usage_);
  End(status_, std::move(last));
}

void GenerateCall::OnTokens(int index, Delta delta) { Send(ToProto(index, std::move(delta))); }

void GenerateCall::OnEmbedding(int /*index*/, std::vector<float> /*values*/) {}

void GenerateCall::OnFinish(int index, const absl::Status& status, FinishReason reason, const RequestUsage& usage) {
  if (status.ok()) {
    v1::GenerateResponse message;
    message.set_index(index);
    message.set_finish_reason(ToProto(reason));
    Send(std::move(message));
  }
  Ended(status, usage, 1);
}

void GenerateCall::Enqueue(v1::GenerateResponse message, std::deque<v1::GenerateResponse>* waiting) {
  const auto same = std::find_if(waiting->rbegin(), waiting->rend(),
                                 [&](const auto& other) { return other.index() == message.index(); });
  if (same != waiting->rend() && same->token_ids_size() < kMaxJoinedTokens) return Join(message, &*same);
  waiting->push_back(std::move(message));
}

void GenerateCall::Abandon() {
  std::lock_guard lock(mutex_);
  for (const auto& request : requests_) request->Cancel();
}

}  // namespace automodeld
