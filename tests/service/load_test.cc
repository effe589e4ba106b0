// LoadModel, UnloadModel, ListModels and GetModel from a client's side.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "tests/await_that.h"
#include "tests/service/test_daemon.h"

namespace automodeld {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

namespace fs = std::filesystem;

// A model root with the folders a and nested/b, a link within it, and links out of it.
class Root {
 public:
  Root() {
    std::string path = testing::TempDir() + "/automodeld_root_XXXXXX";
    if (mkdtemp(path.data()) == nullptr) ADD_FAILURE() << "no temporary folder";
    base_ = fs::canonical(path);
    for (const char* folder : {"root/decoder", "root/nested/b", "outside", "root/leaky", "root/linked"}) {
      fs::create_directories(base_ / folder);
    }
    std::ofstream(base_ / "outside/secret") << "x";
    fs::create_directory_symlink(base_ / "root/decoder", base_ / "root/link");
    fs::create_directory_symlink(base_ / "outside", base_ / "root/escape");
    fs::create_symlink(base_ / "outside/secret", base_ / "root/leaky/model.safetensors");
    fs::create_directory_symlink(base_ / "root/nested", base_ / "root/linked/1_Pooling");
  }
  ~Root() { fs::remove_all(base_); }
  fs::path path() const { return base_ / "root"; }
  fs::path base() const { return base_; }

 private:
  fs::path base_;
};

struct Loaded {
  grpc::Status status;
  std::vector<v1::LoadProgress> progress;
  std::optional<v1::LoadReport> report;
};

Loaded ReadLoad(grpc::ClientReader<v1::LoadModelResponse>* reader) {
  Loaded loaded;
  v1::LoadModelResponse message;
  while (reader->Read(&message)) {
    EXPECT_FALSE(loaded.report) << "a message after the report";
    if (message.has_progress()) loaded.progress.push_back(message.progress());
    if (message.has_report()) loaded.report = message.report();
  }
  loaded.status = reader->Finish();
  return loaded;
}

Loaded LoadModel(v1::ModelService::Stub& stub, const v1::LoadModelRequest& request) {
  grpc::ClientContext context;
  return ReadLoad(stub.LoadModel(&context, request).get());
}

v1::LoadModelRequest FromPath(const std::string& path, const std::string& model = "") {
  v1::LoadModelRequest request;
  request.set_path(path);
  request.set_model(model);
  return request;
}

grpc::Status Unload(TestDaemon& daemon, const std::string& model, bool drain) {
  v1::UnloadModelRequest request;
  v1::UnloadModelResponse response;
  request.set_model(model);
  request.set_drain(drain);
  grpc::ClientContext context;
  return daemon.models().UnloadModel(&context, request, &response);
}

std::vector<std::string> Names(TestDaemon& daemon) {
  grpc::ClientContext context;
  v1::ListModelsResponse response;
  EXPECT_TRUE(daemon.models().ListModels(&context, {}, &response).ok());
  std::vector<std::string> names;
  for (const auto& status : response.models()) names.push_back(status.model() + " " + ModelState_Name(status.state()));
  return names;
}

class LoadTest : public testing::Test {
 protected:
  LoadTest() : daemon_({"encoder"}, [this](DaemonConfig& config, FakeLoader&) { config.model_root = root_.path(); }) {}

  Loaded Load(const v1::LoadModelRequest& request) { return LoadModel(daemon_.models(), request); }

  Root root_;
  TestDaemon daemon_;
};

TEST_F(LoadTest, StreamsProgressThenTheReportAndServesUnderTheFoldersName) {
  const Loaded loaded = Load(FromPath("decoder/"));
  ASSERT_TRUE(loaded.status.ok()) << loaded.status.error_message();
  ASSERT_FALSE(loaded.progress.empty());
  EXPECT_EQ(loaded.progress[0].phase(), "weights");
  EXPECT_EQ(loaded.progress[0].total_bytes(), 2);
  ASSERT_TRUE(loaded.report);
  EXPECT_EQ(loaded.report->model_info().architecture(), "LlamaForCausalLM");
  ASSERT_EQ(loaded.report->attempts_size(), 1);
  EXPECT_EQ(loaded.report->attempts(0).fallback(), "sdpa");
  ASSERT_EQ(loaded.report->notes_size(), 1);
  EXPECT_EQ(loaded.report->notes(0), "sample stays eager: no fused version for cpu");
  EXPECT_EQ(loaded.report->bytes().weights(), 4000);
  EXPECT_TRUE(Generate(daemon_.inference(), TextRequest("decoder", "abc", 4)).status.ok());
  EXPECT_EQ(Health(daemon_.channel(), "decoder"), "SERVING");
}

TEST_F(LoadTest, GivesTheLoaderTheRealFolder) {
  ASSERT_TRUE(Load(FromPath("link", "decoder")).status.ok());
  EXPECT_EQ(daemon_.loader().requests().back().path, (root_.path() / "decoder").string());
  ASSERT_TRUE(Load(FromPath("nested/../nested/./b", "decoder2")).status.ok());
  EXPECT_EQ(daemon_.loader().requests().back().path, (root_.path() / "nested/b").string());
  ASSERT_TRUE(Load(FromPath((root_.path() / "nested/b").string(), "decoder3")).status.ok());
}

TEST_F(LoadTest, NoPathLeadsOutOfTheRoot) {
  const size_t before = daemon_.loader().requests().size();
  for (const std::string& path :
       {std::string(".."), std::string("decoder/../../outside"), std::string("escape"), std::string("/etc"),
        root_.base().string(), std::string("escape/../outside"), std::string("leaky")}) {
    const Loaded loaded = Load(FromPath(path, "decoder"));
    EXPECT_EQ(loaded.status.error_code(), grpc::INVALID_ARGUMENT) << path;
    EXPECT_THAT(loaded.status.error_message(), HasSubstr("leads out of --model-root")) << path;
  }
  EXPECT_EQ(Load(FromPath("linked", "decoder")).status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(daemon_.loader().requests().size(), before) << "the loader was asked";
}

TEST_F(LoadTest, MessagesDoNotSayWhereTheRootIs) {
  const Loaded broken = Load(FromPath("decoder", "broken"));
  EXPECT_EQ(broken.status.error_code(), grpc::FAILED_PRECONDITION);
  EXPECT_EQ(broken.status.error_message(), "decoder/model.safetensors: 3 tensors are missing");
  const Loaded missing = Load(FromPath("nowhere", "decoder"));
  EXPECT_EQ(missing.status.error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(missing.status.error_message(),
            "path: beneath --model-root there is neither a folder nor a cached Hub model 'nowhere'");
  v1::GetModelRequest request;
  v1::GetModelResponse response;
  request.set_model("broken");
  grpc::ClientContext context;
  ASSERT_TRUE(daemon_.models().GetModel(&context, request, &response).ok());
  EXPECT_EQ(response.status().state(), v1::MODEL_STATE_FAILED);
  EXPECT_EQ(response.status().error(), "decoder/model.safetensors: 3 tensors are missing");
}

TEST_F(LoadTest, ABrokenCheckpointDisturbsNobodyAndItsNameCanBeTriedAgain) {
  EXPECT_FALSE(Load(FromPath("decoder", "broken")).status.ok());
  EXPECT_FALSE(Load(FromPath("decoder", "broken")).status.ok());
  EXPECT_THAT(Names(daemon_), ElementsAre("broken MODEL_STATE_FAILED", "encoder MODEL_STATE_READY"));
  EXPECT_TRUE(Unload(daemon_, "broken", true).ok());
  EXPECT_THAT(Names(daemon_), ElementsAre("encoder MODEL_STATE_READY"));
}

TEST_F(LoadTest, ManyNamesThatFailAreNotAllRemembered) {
  for (int i = 0; i < 70; ++i) EXPECT_FALSE(Load(FromPath("decoder", "broken" + std::to_string(i))).status.ok());
  EXPECT_THAT(Names(daemon_), testing::SizeIs(64 + 1));  // and the encoder
  EXPECT_EQ(Health(daemon_.channel(), "broken69"), "error 5");
}

TEST_F(LoadTest, ANameThatIsLoadedOrLoadingIsTaken) {
  EXPECT_EQ(Load(FromPath("decoder", "encoder")).status.error_code(), grpc::ALREADY_EXISTS);
  daemon_.loader().Hold();
  grpc::ClientContext context;
  const auto first = daemon_.models().LoadModel(&context, FromPath("decoder"));
  daemon_.loader().AwaitLoading("decoder");
  EXPECT_EQ(Load(FromPath("decoder")).status.error_code(), grpc::ALREADY_EXISTS);
  EXPECT_EQ(Generate(daemon_.inference(), TextRequest("decoder", "a", 1)).status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(Names(daemon_), ElementsAre("decoder MODEL_STATE_LOADING", "encoder MODEL_STATE_READY"));
  daemon_.loader().Release();
  EXPECT_TRUE(ReadLoad(first.get()).status.ok());
}

TEST_F(LoadTest, CancellingTheCallStopsTheLoadAndFreesTheName) {
  daemon_.loader().Hold();
  grpc::ClientContext context;
  const auto reader = daemon_.models().LoadModel(&context, FromPath("decoder"));
  daemon_.loader().AwaitLoading("decoder");
  context.TryCancel();
  EXPECT_EQ(ReadLoad(reader.get()).status.error_code(), grpc::CANCELLED);
  daemon_.loader().AwaitEnded("decoder");
  AwaitThat([&] { return Names(daemon_).size() == 1; });
  daemon_.loader().Release();
  EXPECT_TRUE(Load(FromPath("decoder")).status.ok());
}

TEST_F(LoadTest, LoadsDoNotHoldUpOtherCalls) {
  daemon_.loader().Hold();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::LoadModelResponse>>> readers;
  for (int i = 0; i < 8; ++i) {  // more than there are threads for loading
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(
        daemon_.models().LoadModel(contexts.back().get(), FromPath("decoder", "decoder" + std::to_string(i))));
    if (i == 0) daemon_.loader().AwaitLoading("decoder0");  // of those that come at once any may be the first
  }
  v1::EmbedRequest request;
  v1::EmbedResponse response;
  request.set_model("encoder");
  request.add_inputs()->set_text("abc");
  grpc::ClientContext context;
  EXPECT_TRUE(daemon_.inference().Embed(&context, request, &response).ok());
  daemon_.loader().Release();
  for (const auto& reader : readers) EXPECT_TRUE(ReadLoad(reader.get()).status.ok());
}

TEST_F(LoadTest, CheckOnlyReportsAndServesNothing) {
  v1::LoadModelRequest request = FromPath("decoder");
  request.set_check_only(true);
  const Loaded loaded = Load(request);
  ASSERT_TRUE(loaded.status.ok()) << loaded.status.error_message();
  EXPECT_TRUE(loaded.report);
  EXPECT_THAT(Names(daemon_), ElementsAre("encoder MODEL_STATE_READY"));
}

TEST_F(LoadTest, WhatALoaderThrowsEndsTheCallAndNotTheDaemon) {
  for (int i = 0; i < 2; ++i) {  // the name is not taken after the first
    EXPECT_EQ(Load(FromPath("decoder", "throws")).status.error_code(), grpc::INTERNAL);
  }
  EXPECT_TRUE(Load(FromPath("decoder")).status.ok());
}

TEST_F(LoadTest, UnloadWithoutDrainEndsStreamsAtOnce) {
  ASSERT_TRUE(Load(FromPath("decoder")).status.ok());
  grpc::ClientContext context;
  const auto reader = daemon_.inference().Generate(&context, TextRequest("decoder", "abc", 4000));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  daemon_.loader().steps("decoder")->Hold();
  std::thread unload([&] { EXPECT_TRUE(Unload(daemon_, "decoder", false).ok()); });
  AwaitThat([&] { return Names(daemon_)[0] == "decoder MODEL_STATE_UNLOADING"; });
  EXPECT_EQ(Generate(daemon_.inference(), TextRequest("decoder", "a", 1)).status.error_code(), grpc::UNAVAILABLE);
  daemon_.loader().steps("decoder")->Release();
  EXPECT_EQ(ReadAll(reader.get()).status.error_code(), grpc::UNAVAILABLE);
  unload.join();
  EXPECT_THAT(Names(daemon_), ElementsAre("encoder MODEL_STATE_READY"));
  EXPECT_EQ(Health(daemon_.channel(), "decoder"), "NOT_SERVING");
  EXPECT_EQ(Generate(daemon_.inference(), TextRequest("decoder", "a", 1)).status.error_code(), grpc::NOT_FOUND);
}

TEST_F(LoadTest, UnloadWithDrainLetsStreamsFinish) {
  ASSERT_TRUE(Load(FromPath("decoder")).status.ok());
  const auto steps = daemon_.loader().steps("decoder");
  steps->Hold();
  grpc::ClientContext context;
  const auto reader = daemon_.inference().Generate(&context, TextRequest("decoder", "abc", 40));
  steps->AwaitLaunched(1);
  std::thread unload([&] { EXPECT_TRUE(Unload(daemon_, "decoder", true).ok()); });
  AwaitThat([&] { return Names(daemon_)[0] == "decoder MODEL_STATE_UNLOADING"; });
  steps->Release();
  const Answer answer = ReadAll(reader.get());
  EXPECT_TRUE(answer.status.ok());
  EXPECT_EQ(answer.usage.completion_tokens(), 40);
  unload.join();
}

TEST_F(LoadTest, GetModelTellsStateReportAndLoad) {
  v1::GetModelRequest request;
  v1::GetModelResponse response;
  request.set_model("encoder");
  grpc::ClientContext context, unknown, empty;
  ASSERT_TRUE(daemon_.models().GetModel(&context, request, &response).ok());
  EXPECT_EQ(response.status().state(), v1::MODEL_STATE_READY);
  EXPECT_EQ(response.status().info().max_model_len(), kFakeModelLen);
  EXPECT_TRUE(response.status().has_load());
  EXPECT_FALSE(response.status().automodeld_version().empty());
  EXPECT_EQ(response.report().attention_backend(), "eager");
  EXPECT_THAT(response.report().decode_attention_ops(), testing::ElementsAre("qkv_rope_write_kv"));
  request.set_model("x");
  EXPECT_EQ(daemon_.models().GetModel(&unknown, request, &response).error_code(), grpc::NOT_FOUND);
  request.clear_model();
  EXPECT_EQ(daemon_.models().GetModel(&empty, request, &response).error_code(), grpc::INVALID_ARGUMENT);
}

TEST_F(LoadTest, UnloadOfAnUnknownNameListsTheLoadedOnes) {
  const grpc::Status status = Unload(daemon_, "x", true);
  EXPECT_EQ(status.error_code(), grpc::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("loaded: encoder"));
  EXPECT_EQ(Unload(daemon_, "", true).error_code(), grpc::INVALID_ARGUMENT);
}

TEST(Load, WithoutModelRootNoPathIsTaken) {
  TestDaemon daemon({});
  const Loaded loaded = LoadModel(daemon.models(), FromPath("decoder"));
  EXPECT_EQ(loaded.status.error_code(), grpc::FAILED_PRECONDITION);
  EXPECT_THAT(loaded.status.error_message(), HasSubstr("--model-root"));
}

TEST(Load, EveryFieldReachesTheLoaderWithItsDefaultFilledIn) {
  TestDaemon daemon({});
  v1::LoadModelRequest request;
  request.set_model("decoder");
  request.set_config_json("{}");
  ASSERT_TRUE(LoadModel(daemon.models(), request).status.ok());
  const LoadOptions defaults = daemon.loader().requests().back();
  EXPECT_TRUE(defaults.use_liger_kernel && defaults.use_sdpa_patching && defaults.allow_fallback);
  EXPECT_EQ(defaults.attn_implementation, "flash_attention_2");
  EXPECT_EQ(defaults.engine.kv_cache_dtype, "auto");
  EXPECT_FALSE(defaults.fp8_config);
  request.set_model("decoder2");
  request.set_use_liger_kernel(false);
  request.add_sdpa_method(v1::SDPA_METHOD_MATH);
  request.set_seed(9);
  request.set_config_overrides("{\"a\": 1}");
  request.mutable_fp8_config()->add_filter_fqns("lm_head");
  request.mutable_engine()->set_max_model_len(64);
  request.set_auto_class(v1::AUTO_CLASS_EMBEDDING);
  (*request.mutable_op_overrides())["rms_norm"] = "mycorp::rms_norm";
  ASSERT_TRUE(LoadModel(daemon.models(), request).status.ok());
  const LoadOptions given = daemon.loader().requests().back();
  EXPECT_FALSE(given.use_liger_kernel);
  EXPECT_THAT(given.sdpa_method, ElementsAre(SdpaMethod::kMath));
  EXPECT_EQ(given.seed, 9U);
  EXPECT_EQ(given.op_overrides, (std::map<std::string, std::string>{{"rms_norm", "mycorp::rms_norm"}}));
  EXPECT_EQ(given.config_overrides, "{\"a\": 1}");
  EXPECT_EQ(given.fp8_config->recipe_name, "tensorwise");
  EXPECT_THAT(given.fp8_config->filter_fqns, ElementsAre("lm_head"));
  EXPECT_EQ(given.engine.max_model_len, 64);
  EXPECT_EQ(given.auto_class, AutoClass::kEmbedding);
}

}  // namespace
}  // namespace automodeld
