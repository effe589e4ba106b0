// A daemon on free loopback ports with fake models, and clients for it.
//
//   TestDaemon daemon({"decoder"});
//   GenerateRequest request = TextRequest("decoder", "abc", 8);
//   Answer answer = Generate(daemon.inference(), request);
#ifndef TESTS_SERVICE_TEST_DAEMON_H_
#define TESTS_SERVICE_TEST_DAEMON_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "automodeld/v1/inference.grpc.pb.h"
#include "automodeld/v1/models.grpc.pb.h"
#include "server/daemon.h"
#include "tests/service/fake_loader.h"

namespace automodeld {

class TestDaemon {
 public:
  using Configure = std::function<void(DaemonConfig& config, FakeLoader& loader)>;

  // Serves `models` (names), and returns once they are loaded.
  explicit TestDaemon(const std::vector<std::string>& models, const Configure& configure = nullptr);
  ~TestDaemon();  // nothing may be left of any call

  FakeLoader& loader() { return loader_; }
  Daemon& daemon() { return *daemon_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  v1::InferenceService::Stub& inference() { return *inference_; }
  v1::ModelService::Stub& models() { return *models_; }

  // Load figures of a model.
  v1::ModelLoad Load(const std::string& model);

  // What Run returned; blocks until it does.
  absl::Status Join();

 private:
  bool NothingLeft();

  FakeLoader loader_;
  std::unique_ptr<Daemon> daemon_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::ModelService::Stub> models_;
  absl::Status result_;
  std::thread run_;
};

std::shared_ptr<grpc::Channel> Connect(const std::string& address);

// A whole answer of Generate.
struct Answer {
  grpc::Status status;
  std::map<int, std::string> text;  // by index
  std::map<int, std::vector<int>> token_ids;
  std::map<int, v1::FinishReason> finish_reason;
  v1::Usage usage;
  int num_messages = 0;
  std::vector<v1::TokenLogprob> logprobs;  // of index 0
};

v1::GenerateRequest TextRequest(const std::string& model, const std::string& text, int max_tokens);
Answer Generate(v1::InferenceService::Stub& stub, const v1::GenerateRequest& request,
                grpc::ClientContext* context = nullptr);

// Reads what is left of a stream that has begun.
Answer ReadAll(grpc::ClientReader<v1::GenerateResponse>* reader);

// "SERVING", "NOT_SERVING" or the error of grpc.health.v1.Health/Check.
std::string Health(const std::shared_ptr<grpc::Channel>& channel, const std::string& service);

// Blocks until grpc.health.v1.Health/Watch says SERVING (1) or NOT_SERVING (2).
void AwaitHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service, char status);

// A unary call of any method with any bytes.
grpc::Status RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     const std::string& request, std::string* response);

}  // namespace automodeld

#endif  // TESTS_SERVICE_TEST_DAEMON_H_
