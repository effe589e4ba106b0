// UnloadModel while the model works: whose calls finish, and who waits for them.
#include <gmock/gmock.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/await_that.h"
#include "tests/service/test_daemon.h"

namespace automodeld {
namespace {

using testing::Contains;
using testing::ElementsAre;

v1::LoadModelRequest FromConfig(const std::string& model) {
  v1::LoadModelRequest request;
  request.set_model(model);
  request.set_config_json("{}");
  return request;
}

// Models, each with a stream that is held in its first step.
class UnloadTest : public testing::Test {
 protected:
  explicit UnloadTest(std::vector<std::string> models = {"decoder"}, int max_tokens = 40)
      : names_(std::move(models)), daemon_(names_) {
    for (const std::string& name : names_) {
      const auto steps = daemon_.loader().steps(name);
      steps->Hold();
      contexts_.push_back(std::make_unique<grpc::ClientContext>());
      streams_.push_back(daemon_.inference().Generate(contexts_.back().get(), TextRequest(name, "abc", max_tokens)));
      steps->AwaitLaunched(1);
    }
  }

  void Release() {
    for (const std::string& name : names_) daemon_.loader().steps(name)->Release();
  }

  grpc::Status Unload(const std::string& model, bool drain, grpc::ClientContext* context) {
    v1::UnloadModelRequest request;
    v1::UnloadModelResponse response;
    request.set_model(model);
    request.set_drain(drain);
    return daemon_.models().UnloadModel(context, request, &response);
  }

  grpc::Status Unload(const std::string& model, bool drain) {
    grpc::ClientContext context;
    return Unload(model, drain, &context);
  }

  std::vector<std::string> States() {
    grpc::ClientContext context;
    v1::ListModelsResponse response;
    EXPECT_TRUE(daemon_.models().ListModels(&context, {}, &response).ok());
    std::vector<std::string> states;
    for (const auto& status : response.models()) states.push_back(ModelState_Name(status.state()));
    return states;
  }

  const std::vector<std::string> names_;
  TestDaemon daemon_;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts_;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> streams_;
};

TEST_F(UnloadTest, WhoseDeadlinePassesIsAnsweredAndTheModelDrainsOnToItsEnd) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  EXPECT_EQ(Unload("decoder", true, &context).error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_THAT(States(), ElementsAre("MODEL_STATE_UNLOADING"));
  Release();
  const Answer answer = ReadAll(streams_[0].get());
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.usage.completion_tokens(), 40);
  AwaitThat([&] { return States().empty(); });
}

TEST_F(UnloadTest, ThatIsCancelledIsOverForTheDaemonToo) {
  grpc::ClientContext context;
  std::thread unload([&] { EXPECT_EQ(Unload("decoder", true, &context).error_code(), grpc::CANCELLED); });
  AwaitThat([&] { return States().at(0) == "MODEL_STATE_UNLOADING"; });
  context.TryCancel();
  unload.join();
  Release();
  EXPECT_TRUE(ReadAll(streams_[0].get()).status.ok());
  AwaitThat([&] { return States().empty(); });
}

TEST_F(UnloadTest, IsEndedWithTheDaemon) {
  std::thread unload([&] { EXPECT_TRUE(Unload("decoder", true).ok()); });
  AwaitThat([&] { return States().at(0) == "MODEL_STATE_UNLOADING"; });
  daemon_.daemon().Stop();
  Release();
  unload.join();
  EXPECT_TRUE(daemon_.Join().ok());
}

class LongUnload : public UnloadTest {
 protected:
  LongUnload() : UnloadTest({"decoder"}, 4000) {}
};

TEST_F(LongUnload, IsEndedByASecondCallThatDoesNotDrain) {
  std::thread first([&] { EXPECT_TRUE(Unload("decoder", true).ok()); });
  AwaitThat([&] { return States().at(0) == "MODEL_STATE_UNLOADING"; });
  std::thread second([&] { EXPECT_TRUE(Unload("decoder", false).ok()); });
  const auto steps = daemon_.loader().steps("decoder");
  steps->ReleaseSteps(1);
  for (v1::GenerateResponse message; streams_[0]->Read(&message);) steps->ReleaseSteps(1);
  EXPECT_EQ(streams_[0]->Finish().error_code(), grpc::UNAVAILABLE);
  Release();
  first.join();
  second.join();
  EXPECT_TRUE(States().empty());
}

// More than there are threads for loading.
class ManyUnloads : public UnloadTest {
 protected:
  ManyUnloads() : UnloadTest({"decoder0", "decoder1", "decoder2", "decoder3", "decoder4", "decoder5"}) {}
};

TEST_F(ManyUnloads, DoNotHoldUpALoad) {
  std::vector<std::thread> unloads;
  for (const std::string& name : names_) {
    unloads.emplace_back([&] { EXPECT_TRUE(Unload(name, true).ok()); });
  }
  AwaitThat([&] { return States() == std::vector<std::string>(names_.size(), "MODEL_STATE_UNLOADING"); });
  grpc::ClientContext context;
  const auto load = daemon_.models().LoadModel(&context, FromConfig("encoder"));
  for (v1::LoadModelResponse message; load->Read(&message);) {
  }
  EXPECT_TRUE(load->Finish().ok());
  EXPECT_THAT(States(), Contains("MODEL_STATE_READY"));
  Release();
  for (std::thread& unload : unloads) unload.join();
  for (const auto& stream : streams_) EXPECT_EQ(ReadAll(stream.get()).usage.completion_tokens(), 40);
}

}  // namespace
}  // namespace automodeld
