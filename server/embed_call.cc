#include "server/embed_call.h"

#include <algorithm>
#include <utility>

#include "core/guarded.h"
#include "core/status.h"
#include "server/convert.h"
#include "server/convert_generate.h"
#include "server/wire.h"

namespace automodeld {
namespace {

// Tokens add up; the times are those of the slowest input.
void Add(const RequestUsage& usage, RequestUsage* sum) {
  sum->prompt_tokens += usage.prompt_tokens;
  sum->cached_tokens += usage.cached_tokens;
  sum->queue = std::max(sum->queue, usage.queue);
  sum->prefill = std::max(sum->prefill, usage.prefill);
}

void SetError(const absl::Status& status, v1::Embedding* embedding) {
  embedding->mutable_error()->set_code(static_cast<int>(status.code()));
  embedding->mutable_error()->set_message(std::string(status.message()));
}

}  // namespace

grpc::ServerUnaryReactor* EmbedCall::Start(const Services& services, grpc::CallbackServerContext* context,
                                           const grpc::ByteBuffer* request, grpc::ByteBuffer* answer) {
  const std::shared_ptr<EmbedCall> call(new EmbedCall(services, context, answer));
  call->Keep(call);
  absl::Status status = Guarded([&] { return call->Admit(call, *request); });
  if (!status.ok()) call->End(std::move(status));
  return call.get();
}

absl::Status EmbedCall::Admit(const std::shared_ptr<EmbedCall>& self, const grpc::ByteBuffer& bytes) {
  const auto request = std::make_shared<v1::EmbedRequest>();  // let go of as soon as it is tokenized
  RETURN_IF_ERROR(Enter(bytes, request.get()));
  ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model, Find(request->model()));
  ASSIGN_OR_RETURN(plan_, PlanEmbed(*request, *model));
  return Post(services().PoolFor(LongestText(*request, plan_)),
              [self, request, model] { self->Prepare(self, *request, *model); });
}

void EmbedCall::Prepare(const std::shared_ptr<EmbedCall>& self, const v1::EmbedRequest& request,
                        const ServedModel& model) {
  Requests requests;
  absl::Status status = Guarded([&] { return MakeRequests(self, request, model, &requests); });
  if (!status.ok() || requests.empty()) return End(std::move(status));
  Submit(requests, model.engine.get());
}

absl::Status EmbedCall::MakeRequests(const std::shared_ptr<EmbedCall>& self, const v1::EmbedRequest& request,
                                     const ServedModel& model, Requests* requests) {
  for (int i = 0; i < request.inputs_size(); ++i) {
    if (cancelled()) return CancelStatus();
    v1::Embedding* embedding = response_.add_embeddings();
    auto made = MakeRequest(self, request.inputs(i), i, model);
    if (!made.ok()) {
      SetError(made.status(), embedding);
      continue;
    }
    embedding->set_num_tokens(static_cast<int>((*made)->prompt.size()));
    requests->push_back(*std::move(made));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Request>> EmbedCall::MakeRequest(const std::shared_ptr<EmbedCall>& self,
                                                                const v1::EmbedInput& input, int index,
                                                                const ServedModel& model) const {
  auto request = std::make_shared<Request>();
  request->kind = Request::Kind::kEmbed;
  request->id = call_id();
  request->index = index;
  ASSIGN_OR_RETURN(request->prompt, EncodeInput(input, plan_, model));
  request->embed = plan_.params;
  request->arrival = absl::Now();
  request->deadline = deadline();
  request->sink = self;
  RETURN_IF_ERROR(model.engine->Check(*request));
  return request;
}

void EmbedCall::Submit(const Requests& requests, Engine* engine) {
  {
    std::lock_guard lock(mutex_);
    requests_ = requests;
    unfinished_ = requests.size();
  }
  if (cancelled()) OnCancel();  // it may have come before there was anything to cancel
  const absl::Status status = engine->Submit(requests);
  if (!status.ok()) Ended(status, {}, requests.size());
}

void EmbedCall::Ended(const absl::Status& status, const RequestUsage& usage, size_t num_requests) {
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
  record().AddTokens(usage_.prompt_tokens);
  *response_.mutable_usage() = ToProto(usage_);
  End(status_);
}

void EmbedCall::End(absl::Status status) {
  if (status.ok()) status = Serialize(response_, answer_);
  {
    std::lock_guard lock(mutex_);
    status_ = status;
  }
  Finish(ToGrpc(status));
}

void EmbedCall::OnTokens(int /*index*/, Delta /*delta*/) {}

void EmbedCall::OnEmbedding(int index, std::vector<float> values) {
  Pack(values, plan_.encoding, response_.mutable_embeddings(index));
}

void EmbedCall::OnFinish(int /*index*/, const absl::Status& status, FinishReason /*reason*/,
                         const RequestUsage& usage) {
  Ended(status, usage, 1);
}

void EmbedCall::OnCancel() {
  SetCancelled();
  std::lock_guard lock(mutex_);
  for (const auto& request : requests_) request->Cancel();
}

void EmbedCall::OnDone() {
  std::unique_lock lock(mutex_);
  const absl::StatusCode code = status_.code();
  lock.unlock();
  Close(code);
}

}  // namespace automodeld
