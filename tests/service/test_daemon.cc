#include "tests/service/test_daemon.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/support/byte_buffer.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "tests/await_that.h"

namespace automodeld {
namespace {

grpc::ByteBuffer ToBuffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

std::string ToString(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return bytes;
}

// HealthCheckRequest{string service = 1}.
std::string HealthRequest(const std::string& service) {
  return std::string("\x0A") + static_cast<char>(service.size()) + service;
}

// HealthCheckResponse{ServingStatus status = 1}: 1 serving, 2 not serving.
char HealthStatus(const std::string& response) { return response.size() == 2 ? response[1] : '\0'; }

bool NextEvent(grpc::CompletionQueue* queue) {
  void* tag = nullptr;
  bool ok = false;
  return queue->Next(&tag, &ok) && ok;
}

}  // namespace

TestDaemon::TestDaemon(const std::vector<std::string>& models, const Configure& configure) {
  spdlog::default_logger();  // made before a daemon that is static, so that it is there until that daemon is gone
  DaemonConfig config;
  config.listen = "127.0.0.1:0";
  config.http_listen = "127.0.0.1:0";
  config.drain_timeout = absl::Seconds(20);
  config.take_signals = false;
  for (const std::string& model : models) {
    config.models.emplace_back().set_model(model);
    config.models.back().set_path("/anywhere/" + model);
  }
  if (configure) configure(config, loader_);
  auto daemon = Daemon::Start(config, loader_.function());
  EXPECT_TRUE(daemon.ok()) << daemon.status();
  daemon_ = *std::move(daemon);
  run_ = std::thread([this] { result_ = daemon_->Run(); });
  channel_ = Connect(daemon_->addresses().listen);
  inference_ = v1::InferenceService::NewStub(channel_);
  models_ = v1::ModelService::NewStub(channel_);
  AwaitHealth(channel_, "", 1);
}

TestDaemon::~TestDaemon() {
  if (daemon_->serving()) AwaitThat([this] { return NothingLeft(); });
  daemon_->Stop();
  EXPECT_TRUE(Join().ok());
}

v1::ModelLoad TestDaemon::Load(const std::string& model) {
  grpc::ClientContext context;
  v1::GetModelRequest request;
  v1::GetModelResponse response;
  request.set_model(model);
  EXPECT_TRUE(models_->GetModel(&context, request, &response).ok());
  return response.status().load();
}

// No request and no KV page in any model: what was cancelled ends within a step.
bool TestDaemon::NothingLeft() {
  grpc::ClientContext context;
  v1::ListModelsResponse response;
  EXPECT_TRUE(models_->ListModels(&context, {}, &response).ok());
  return std::ranges::all_of(response.models(), [](const v1::ModelStatus& model) {
    const v1::ModelLoad& load = model.load();
    return load.running() == 0 && load.waiting() == 0 && load.kv_pages_used() == 0;
  });
}

absl::Status TestDaemon::Join() {
  if (run_.joinable()) run_.join();
  return result_;
}

// Every channel has connections of its own.
std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

v1::GenerateRequest TextRequest(const std::string& model, const std::string& text, int max_tokens) {
  v1::GenerateRequest request;
  request.set_model(model);
  request.set_text(text);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_temperature(0);
  return request;
}

Answer Generate(v1::InferenceService::Stub& stub, const v1::GenerateRequest& request, grpc::ClientContext* context) {
  grpc::ClientContext own;
  return ReadAll(stub.Generate(context != nullptr ? context : &own, request).get());
}

Answer ReadAll(grpc::ClientReader<v1::GenerateResponse>* reader) {
  Answer answer;
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    ++answer.num_messages;
    if (message.has_usage()) answer.usage = message.usage();
    if (message.has_usage()) continue;
    EXPECT_EQ(answer.finish_reason[message.index()], v1::FINISH_REASON_UNSPECIFIED) << "a message after the last one";
    answer.text[message.index()] += message.text();
    auto& ids = answer.token_ids[message.index()];
    ids.insert(ids.end(), message.token_ids().begin(), message.token_ids().end());
    answer.finish_reason[message.index()] = message.finish_reason();
    if (message.index() != 0) continue;
    answer.logprobs.insert(answer.logprobs.end(), message.logprobs().begin(), message.logprobs().end());
  }
  answer.status = reader->Finish();
  return answer;
}

std::string Health(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  std::string response;
  const grpc::Status status = RawCall(channel, "/grpc.health.v1.Health/Check", HealthRequest(service), &response);
  if (!status.ok()) return "error " + std::to_string(status.error_code());
  return HealthStatus(response) == 1 ? "SERVING" : "NOT_SERVING";
}

void AwaitHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service, char status) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  auto call = stub.PrepareCall(&context, "/grpc.health.v1.Health/Watch", &queue);
  call->StartCall(nullptr);
  ASSERT_TRUE(NextEvent(&queue));
  call->WriteLast(ToBuffer(HealthRequest(service)), grpc::WriteOptions(), nullptr);
  ASSERT_TRUE(NextEvent(&queue));
  grpc::ByteBuffer buffer;
  do {
    call->Read(&buffer, nullptr);
    ASSERT_TRUE(NextEvent(&queue)) << "Watch ended";
  } while (HealthStatus(ToString(buffer)) != status);
  context.TryCancel();
  grpc::Status ignored;
  call->Finish(&ignored, nullptr);
  NextEvent(&queue);
}

grpc::Status RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     const std::string& request, std::string* response) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  auto call = stub.PrepareUnaryCall(&context, method, ToBuffer(request), &queue);
  call->StartCall();
  grpc::ByteBuffer buffer;
  grpc::Status status;
  call->Finish(&buffer, &status, nullptr);
  NextEvent(&queue);
  if (status.ok()) *response = ToString(buffer);
  return status;
}

}  // namespace automodeld
