// The daemon as a whole: start, health, reflection, listeners, drain.
#include "server/daemon.h"

#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "tests/service/test_daemon.h"

namespace automodeld {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

constexpr char kServing = 1;
constexpr char kNotServing = 2;

v1::LoadModelRequest Preload(const std::string& model) {
  v1::LoadModelRequest request;
  request.set_model(model);
  request.set_path("/anywhere/" + model);
  return request;
}

absl::Status StartError(const std::function<void(DaemonConfig&)>& change) {
  DaemonConfig config;
  config.listen = "127.0.0.1:0";
  config.http_listen = "";
  config.take_signals = false;
  change(config);
  FakeLoader loader;
  return Daemon::Start(config, loader.function()).status();
}

TEST(Daemon, WithoutModelsIsServing) {
  TestDaemon daemon({});
  EXPECT_EQ(Health(daemon.channel(), ""), "SERVING");
  EXPECT_TRUE(daemon.daemon().serving());
}

TEST(Daemon, EveryModelHasItsOwnHealth) {
  TestDaemon daemon({"decoder"});
  EXPECT_EQ(Health(daemon.channel(), "decoder"), "SERVING");
  EXPECT_EQ(Health(daemon.channel(), "unknown"), "error 5");
}

TEST(Daemon, IsNotServingUntilItsModelsAreLoadedButAnswers) {
  FakeLoader loader;
  loader.Hold();
  DaemonConfig config;
  config.listen = "127.0.0.1:0";
  config.http_listen = "";
  config.take_signals = false;
  config.models = {Preload("decoder")};
  auto daemon = Daemon::Start(config, loader.function());
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  std::thread run([&] { EXPECT_TRUE((*daemon)->Run().ok()); });
  const auto channel = Connect((*daemon)->addresses().listen);
  loader.AwaitLoading("decoder");
  EXPECT_EQ(Health(channel, ""), "NOT_SERVING");
  EXPECT_EQ(Health(channel, "decoder"), "NOT_SERVING");
  const auto stub = v1::InferenceService::NewStub(channel);
  EXPECT_EQ(Generate(*stub, TextRequest("decoder", "a", 1)).status.error_code(), grpc::UNAVAILABLE);
  loader.Release();
  AwaitHealth(channel, "", kServing);
  EXPECT_TRUE(Generate(*stub, TextRequest("decoder", "a", 1)).status.ok());
  (*daemon)->Stop();
  run.join();
}

TEST(Daemon, EndsWithTheErrorOfAModelThatCannotBeLoaded) {
  FakeLoader loader;
  DaemonConfig config;
  config.listen = "127.0.0.1:0";
  config.http_listen = "";
  config.take_signals = false;
  config.models = {Preload("broken")};
  auto daemon = Daemon::Start(config, loader.function());
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const absl::Status status = (*daemon)->Run();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model \"broken\" of /anywhere/broken: "));
}

TEST(Daemon, AModelOfItsConfigJsonIsNamedByThat) {
  FakeLoader loader;
  DaemonConfig config;
  config.listen = "127.0.0.1:0";
  config.http_listen = "";
  config.take_signals = false;
  config.models.emplace_back().set_model("broken");
  config.models.back().set_config_json("{}");
  auto daemon = Daemon::Start(config, loader.function());
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_THAT(std::string((*daemon)->Run().message()), StartsWith("model \"broken\" of its config_json: "));
}

TEST(Daemon, StoppedWhileLoadingEndsAtOnce) {
  FakeLoader loader;
  loader.Hold();
  DaemonConfig config;
  config.listen = "127.0.0.1:0";
  config.http_listen = "";
  config.take_signals = false;
  config.models = {Preload("decoder")};
  auto daemon = Daemon::Start(config, loader.function());
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  loader.AwaitLoading("decoder");
  (*daemon)->Stop();
  EXPECT_TRUE((*daemon)->Run().ok());
}

TEST(Daemon, AMessageTooLongToTravelIsCutAndSaysSo) {
  TestDaemon daemon({});
  const std::string name(100'000, 'x');
  const Answer answer = Generate(daemon.inference(), TextRequest(name, "abc", 1));
  EXPECT_EQ(answer.status.error_code(), grpc::NOT_FOUND);
  EXPECT_LT(answer.status.error_message().size(), 8192U);
  EXPECT_THAT(answer.status.error_message(),
              EndsWith("xxx ... (cut; of a load that failed, the daemon's log has all)"));
}

TEST(Daemon, ReflectionListsBothServices) {
  TestDaemon daemon({});
  std::string response;
  // ServerReflectionRequest{list_services = "*"} of a stream of one.
  const grpc::Status status =
      RawCall(daemon.channel(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
              std::string("\x3A\x01*"), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(response, HasSubstr("automodeld.v1.InferenceService"));
  EXPECT_THAT(response, HasSubstr("automodeld.v1.ModelService"));
  EXPECT_THAT(response, HasSubstr("grpc.health.v1.Health"));
}

TEST(Daemon, AnAddressOthersCanReachNeedsInsecureListen) {
  const auto message = [](const absl::Status& status) { return std::string(status.message()); };
  EXPECT_THAT(message(StartError([](auto& config) { config.listen = "0.0.0.0:0"; })), HasSubstr("--insecure-listen"));
  EXPECT_THAT(message(StartError([](auto& config) { config.admin_listen = "[::]:0"; })),
              HasSubstr("--admin-listen: [::]"));
  EXPECT_THAT(message(StartError([](auto& config) { config.http_listen = "0.0.0.0:0"; })), HasSubstr("--http-listen"));
  EXPECT_TRUE(StartError([](auto& config) { config.listen = "0.0.0.0:0", config.insecure_listen = true; }).ok());
}

TEST(Daemon, AnAddressThatIsNoneIsAnErrorWithItsName) {
  for (const std::string address : {"localhost", "127.0.0.1:65536"}) {
    const absl::Status status = StartError([&](auto& config) { config.listen = address; });
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), StartsWith("--listen: "));
    EXPECT_THAT(std::string(status.message()), HasSubstr(address));
  }
}

TEST(Daemon, AnAddressThatIsTakenIsAnErrorWithItsNameAndWhatToDo) {
  TestDaemon other({});
  const DaemonAddresses taken = other.daemon().addresses();
  const auto expect = [](const std::string& option, const std::string& address, const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()), StartsWith(option + ": cannot listen on " + address + ": "));
    EXPECT_THAT(std::string(status.message()), HasSubstr("; choose another"));
  };
  expect("--listen", taken.listen, StartError([&](auto& config) { config.listen = taken.listen; }));
  expect("--admin-listen", taken.listen, StartError([&](auto& config) { config.admin_listen = taken.listen; }));
  expect("--http-listen", taken.http_listen, StartError([&](auto& config) { config.http_listen = taken.http_listen; }));
}

grpc::StatusCode TryUnload(const std::string& address) {
  const auto stub = v1::ModelService::NewStub(Connect(address));
  v1::UnloadModelRequest request;
  v1::UnloadModelResponse response;
  request.set_model("x");
  grpc::ClientContext context;
  return stub->UnloadModel(&context, request, &response).error_code();
}

grpc::StatusCode TryLoad(const std::string& address) {
  const auto stub = v1::ModelService::NewStub(Connect(address));
  v1::LoadModelRequest request;
  request.set_model("decoder");
  request.set_config_json("{}");
  grpc::ClientContext context;
  const auto reader = stub->LoadModel(&context, request);
  v1::LoadModelResponse message;
  while (reader->Read(&message)) {
  }
  return reader->Finish().error_code();
}

TEST(Daemon, ModelsAreChangedOnlyOnTheAdminListenerIfOthersCanReachTheFirst) {
  TestDaemon daemon({}, [](DaemonConfig& config, FakeLoader&) {
    config.listen = "0.0.0.0:0";
    config.admin_listen = "127.0.0.1:0";
    config.insecure_listen = true;
  });
  const DaemonAddresses& addresses = daemon.daemon().addresses();
  EXPECT_EQ(TryLoad(addresses.listen), grpc::PERMISSION_DENIED);
  EXPECT_EQ(TryUnload(addresses.listen), grpc::PERMISSION_DENIED);
  EXPECT_EQ(TryLoad(addresses.admin_listen), grpc::OK);
  EXPECT_EQ(TryUnload(addresses.admin_listen), grpc::NOT_FOUND);
  EXPECT_TRUE(Generate(daemon.inference(), TextRequest("decoder", "a", 1)).status.ok());
  EXPECT_EQ(Health(Connect(addresses.admin_listen), "decoder"), "SERVING");
}

class Draining : public testing::Test {
 protected:
  // A daemon with a stream that is held in its first step.
  void Begin(absl::Duration drain_timeout, int max_tokens = 20) {
    daemon_ = std::make_unique<TestDaemon>(std::vector<std::string>{"decoder"}, [&](DaemonConfig& config, FakeLoader&) {
      config.drain_timeout = drain_timeout;
      config.take_signals = true;
    });
    steps_ = daemon_->loader().steps("decoder");
    steps_->Hold();
    stream_ = daemon_->inference().Generate(&context_, TextRequest("decoder", "abc", max_tokens));
    steps_->AwaitLaunched(1);
  }

  std::unique_ptr<TestDaemon> daemon_;
  std::shared_ptr<FakeSteps> steps_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> stream_;
};

TEST_F(Draining, ASignalStopsNewCallsAndLetsRunningOnesFinish) {
  Begin(absl::Seconds(60));
  std::raise(SIGTERM);
  AwaitHealth(daemon_->channel(), "", kNotServing);
  EXPECT_EQ(Health(daemon_->channel(), "decoder"), "NOT_SERVING");
  EXPECT_FALSE(daemon_->daemon().serving());
  const Answer refused = Generate(daemon_->inference(), TextRequest("decoder", "abc", 1));
  EXPECT_EQ(refused.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("draining"));
  std::raise(SIGTERM);  // changes nothing
  std::raise(SIGINT);
  steps_->Release();
  const Answer answer = ReadAll(stream_.get());
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.usage.completion_tokens(), 20);
  EXPECT_TRUE(daemon_->Join().ok());
}

TEST_F(Draining, WhatStillRunsAfterTheTimeoutIsEnded) {
  Begin(absl::Milliseconds(50), 4000);
  std::atomic<bool> ended = false;
  std::thread slow_model([&] {  // a step a millisecond: it would take four seconds
    while (!ended) {
      steps_->ReleaseSteps(1);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  daemon_->daemon().Stop();
  const Answer answer = ReadAll(stream_.get());
  EXPECT_EQ(answer.status.error_code(), grpc::UNAVAILABLE) << answer.status.error_message();
  EXPECT_LT(answer.token_ids.at(0).size(), 4000U);
  EXPECT_TRUE(daemon_->Join().ok());
  ended = true;
  slow_model.join();
}

TEST_F(Draining, AClientThatDoesNotReadDoesNotHoldItUp) {
  Begin(absl::Milliseconds(50));
  steps_->Release();
  daemon_->daemon().Stop();
  EXPECT_TRUE(daemon_->Join().ok());
}

TEST(Drain, ALoadInProgressIsStopped) {
  TestDaemon daemon({});
  daemon.loader().Hold();
  v1::LoadModelRequest request;
  request.set_model("decoder");
  request.set_config_json("{}");
  grpc::ClientContext context;
  const auto reader = daemon.models().LoadModel(&context, request);
  daemon.loader().AwaitLoading("decoder");
  daemon.daemon().Stop();
  v1::LoadModelResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::UNAVAILABLE);
  EXPECT_TRUE(daemon.Join().ok());
}

}  // namespace
}  // namespace automodeld
