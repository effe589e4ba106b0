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

constexpr size_t kShortTexts = 512;       // bytes that are tokenized in a tenth of a millisecond, or two
constexpr size_t kTextsPerThread = 2048;  // bytes worth waking a thread
constexpr int kPart = 16;                 // inputs that a thread takes at a time

// Tokens add up; the times are those of the slowest input.
void Add(const RequestUsage& usage, RequestUsage* sum) {
  sum->prompt_tokens += usage.prompt_tokens;
  sum->cached_tokens += usage.cached_tokens;
  sum->queue = std::max(sum->queue, usage.queue);
  sum->prefill = std::max(sum->prefill, usage.prefill);
}

// How many threads should tokenize, at least one.
int NumThreads(const v1::EmbedRequest& request, const WorkerPool& pool) {
  const int parts = (request.inputs_size() + kPart - 1) / kPart;
  const auto wanted = static_cast<int>(TextBytes(request) / kTextsPerThread);
  return std::max(1, std::min({wanted, parts, pool.num_threads()}));
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
  const auto work = std::make_shared<Work>();
  const v1::EmbedRequest& request = work->request;
  RETURN_IF_ERROR(Enter(bytes, &work->request));
  ASSIGN_OR_RETURN(work->model, Find(request.model()));
  ASSIGN_OR_RETURN(plan_, PlanEmbed(request, *work->model));
  work->made.resize(static_cast<size_t>(request.inputs_size()));
  work->left = work->num_inputs = request.inputs_size();
  for (int i = 0; i < work->num_inputs; ++i) response_.add_embeddings();
  if (TextBytes(request) <= kShortTexts) {
    Encode(self, *work);
    return absl::OkStatus();
  }
  WorkerPool* const pool = services().PoolFor(LongestText(request, plan_));
  const int num_threads = pool == services().workers ? NumThreads(request, *pool) : 1;
  const auto encode = [self, work] { self->Encode(self, *work); };
  RETURN_IF_ERROR(Post(pool, encode));
  for (int i = 1; i < num_threads && pool->Post(encode); ++i) continue;
  return absl::OkStatus();
}

void EmbedCall::Encode(const std::shared_ptr<EmbedCall>& self, Work& work) {
  const int size = work.num_inputs;
  for (int begin = work.next.fetch_add(kPart); begin < size; begin = work.next.fetch_add(kPart)) {
    const int end = std::min(begin + kPart, size);
    const absl::Status status = Guarded([&] { return MakeRequests(self, work, begin, end); });
    if (!status.ok()) {
      const std::lock_guard lock(mutex_);
      status_.Update(status);
    }
    if (work.left.fetch_sub(end - begin) == end - begin) Submit(work);
  }
}

absl::Status EmbedCall::MakeRequests(const std::shared_ptr<EmbedCall>& self, Work& work, int begin, int end) {
  for (int i = begin; i < end; ++i) {
    if (cancelled()) return CancelStatus();
    v1::Embedding* embedding = response_.mutable_embeddings(i);
    auto made = MakeRequest(self, work.request.inputs(i), i, *work.model);
    if (!made.ok()) {
      SetError(made.status(), embedding);
      continue;
    }
    embedding->set_num_tokens(static_cast<int>((*made)->prompt.size()));
    work.made[static_cast<size_t>(i)] = *std::move(made);
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

// Lets go of what is not needed any more: a thread that comes too late for a part keeps `work` until it knows.
void EmbedCall::Submit(Work& work) {
  const std::shared_ptr<const ServedModel> model = std::move(work.model);
  Requests requests = std::move(work.made);
  work.request.Clear();
  std::erase(requests, nullptr);
  absl::Status status;
  {
    const std::lock_guard lock(mutex_);
    status = status_;
    requests_ = requests;
    unfinished_ = requests.size();
  }
  if (!status.ok() || requests.empty()) return End(std::move(status));
  if (cancelled()) OnCancel();  // it may have come before there was anything to cancel
  status = model->engine->Submit(requests);
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
