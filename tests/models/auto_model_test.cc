#include "core/auto_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "core/version.h"
#include "tests/models/tiny_model.h"

namespace automodeld {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

absl::StatusOr<LoadedModel> Load(const LoadOptions& options) { return AutoModel::Load(options, {}); }

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

at::Tensor Values(const TestTensor& tensor) {
  return at::from_blob(const_cast<char*>(tensor.bytes.data()), tensor.shape, at::kFloat).clone();
}

// Every tensor of the last model has the checkpoint's numbers, in `dtype`.
void ExpectTinyNumbers(at::ScalarType dtype) {
  std::map<std::string, at::Tensor> stored;
  for (const TestTensor& tensor : TinyTensors()) stored[tensor.name] = Values(tensor);
  const auto& made = LastTiny();
  for (const char* name : {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}) {
    ASSERT_EQ(made.at(name).scalar_type(), dtype) << name;
    EXPECT_TRUE(made.at(name).to(at::kFloat).equal(stored.at(name))) << name;
  }
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    for (const std::string part : {"weight", "bias"}) {
      const at::Tensor both =
          at::cat({stored.at("model." + layer + "q." + part), stored.at("model." + layer + "k." + part)});
      EXPECT_TRUE(made.at(layer + "qk." + part).to(at::kFloat).equal(both)) << layer << part;
    }
  }
}

TEST(AutoModel, LoadsACheckpointAndReportsWhatItIs) {
  const CheckpointFolder folder;
  WriteTiny(folder);
  const auto loaded = Load(PlainOptions(folder.path()));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ExpectTinyNumbers(at::kFloat);
  const ModelInfo& info = loaded->report.info;
  EXPECT_EQ(info.model, "tiny");
  EXPECT_EQ(info.architecture, "TinyForTest");
  EXPECT_EQ(info.model_type, "tiny");
  EXPECT_EQ(info.dtype, "float32");
  EXPECT_EQ(info.device, "cpu");
  EXPECT_EQ(info.num_parameters, 2 * 24 * 16 + 16 + 2 * (24 * 16 + 24));
  EXPECT_EQ(info.max_model_len, 64);
  EXPECT_EQ(info.vocab_size, 24);
  EXPECT_EQ(info.hidden_size, 16);
  EXPECT_EQ(info.num_layers, 2);
  EXPECT_TRUE(info.can_generate);
  EXPECT_TRUE(info.can_embed);
  EXPECT_FALSE(info.has_chat_template);
  EXPECT_EQ(loaded->tokenizer, nullptr);
  EXPECT_THAT(loaded->generation.eos_token_ids, ElementsAre(3));
  EXPECT_EQ(loaded->embedding.pooling, Pooling::kLastToken);
  EXPECT_EQ(loaded->embedding.max_seq_length, 64);
  EXPECT_EQ(loaded->report.weight_bytes, info.num_parameters * 4);
  EXPECT_EQ(loaded->report.automodeld_version, Version());
  EXPECT_TRUE(loaded->report.attempts.empty());
  ASSERT_NE(loaded->runner, nullptr);
  EXPECT_EQ(loaded->runner->limits().max_model_len, 64);
  EXPECT_EQ(loaded->runner->limits().num_pages, 256 * 4 + 1);
  EXPECT_EQ(loaded->report.kv_bytes, (256 * 4 + 1) * 2 * 2 * 16 * 16 * 4);
}

TEST(AutoModel, PhasesAreToldInOrderAndTimed) {
  const CheckpointFolder folder;
  WriteTiny(folder);
  std::vector<std::string> told;
  LoadContext context;
  context.progress = [&](const LoadProgress& progress) { told.push_back(progress.phase); };
  const auto loaded = AutoModel::Load(PlainOptions(folder.path()), context);
  ASSERT_TRUE(loaded.ok());
  EXPECT_THAT(told, ElementsAre("config", "plan", "weights", "engine"));
  std::vector<std::string> timed;
  for (const auto& [phase, seconds] : loaded->report.phase_seconds) timed.push_back(phase);
  EXPECT_EQ(timed, told);
}

TEST(AutoModel, EveryStoredTypeLoadsIntoEveryTargetType) {
  for (const std::string stored : {"F64", "F32", "F16", "BF16"}) {
    for (const std::string target : {"float32", "float16", "bfloat16"}) {
      SCOPED_TRACE(stored + " to " + target);
      std::vector<TestTensor> tensors;
      for (const TestTensor& tensor : TinyTensors()) tensors.push_back(Converted(tensor, stored));
      const CheckpointFolder folder;
      folder.Write("config.json", kTinyConfig);
      folder.WriteTensors("model.safetensors", tensors);
      LoadOptions options = PlainOptions(folder.path());
      options.torch_dtype = target;
      const auto loaded = Load(options);
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      EXPECT_EQ(loaded->report.info.dtype, target);
      ExpectTinyNumbers(target == "float32" ? at::kFloat : target == "float16" ? at::kHalf : at::kBFloat16);
    }
  }
}

TEST(AutoModel, ATensorLargerThanTheStagingBufferIsConvertedWhole) {
  const int64_t vocab = 300000;  // 38 MB as F64
  std::vector<TestTensor> tensors;
  for (TestTensor tensor : TinyTensors()) {
    if (tensor.shape.size() == 2 && tensor.shape[0] == 24) {
      std::vector<float> values(static_cast<size_t>(vocab * 16));
      for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
      tensor = {tensor.name, "F32", {vocab, 16}, FloatBytes(values)};
    }
    tensors.push_back(Converted(tensor, "F64"));
  }
  const CheckpointFolder folder;
  folder.Write("config.json", kTinyConfig);
  folder.WriteTensors("model.safetensors", tensors);
  LoadOptions options = PlainOptions(folder.path());
  options.torch_dtype = "float32";
  options.config_overrides = R"({"vocab_size": 300000})";
  ASSERT_TRUE(Load(options).ok()) << Load(options).status();
  EXPECT_TRUE(LastTiny()["lm_head.weight"].flatten().equal(at::arange(vocab * 16, at::kFloat)));
}

TEST(AutoModel, NamesLoadWithAndWithoutTheBaseModelPrefix) {
  const CheckpointFolder folder;
  folder.Write("config.json", kTinyConfig);
  std::vector<TestTensor> bare = TinyTensors();
  for (TestTensor& tensor : bare) {
    if (tensor.name.starts_with("model.")) tensor.name = tensor.name.substr(6);
  }
  folder.WriteTensors("model.safetensors", bare);
  ASSERT_TRUE(Load(PlainOptions(folder.path())).ok()) << Load(PlainOptions(folder.path())).status();
  ExpectTinyNumbers(at::kFloat);
  std::vector<TestTensor> prefixed = TinyTensors();
  for (TestTensor& tensor : prefixed) {
    if (!tensor.name.starts_with("model.")) tensor.name = "model." + tensor.name;
  }
  folder.WriteTensors("model.safetensors", prefixed);
  ASSERT_TRUE(Load(PlainOptions(folder.path())).ok());
  ExpectTinyNumbers(at::kFloat);
}

TEST(AutoModel, ShardsLoadAsOne) {
  const CheckpointFolder folder;
  folder.Write("config.json", kTinyConfig);
  const std::vector<TestTensor> tensors = TinyTensors();
  nlohmann::json map;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string shard = "model-" + std::to_string(i) + ".safetensors";
    folder.WriteTensors(shard, {tensors[i]});
    map[tensors[i].name] = shard;
  }
  folder.Write("model.safetensors.index.json", nlohmann::json({{"weight_map", map}}).dump());
  ASSERT_TRUE(Load(PlainOptions(folder.path())).ok());
  ExpectTinyNumbers(at::kFloat);
}

TEST(AutoModel, EveryMissingMisshapenAndUnreadTensorIsListedAtOnce) {
  std::vector<TestTensor> tensors = TinyTensors();
  tensors[0] = {"model.embed_tokens.weight", "F32", {2, 2}, std::string(16, '\0')};
  tensors[1].name = "model.nrm.weight";
  tensors[2] = {"lm_head.weight", "I64", {24, 16}, std::string(24 * 16 * 8, '\0')};
  tensors.push_back({"extra.bias", "F32", {1}, "1234"});
  const CheckpointFolder folder;
  folder.Write("config.json", kTinyConfig);
  folder.WriteTensors("model.safetensors", tensors);
  for (const bool check_only : {false, true}) {
    LoadOptions options = PlainOptions(folder.path());
    options.check_only = check_only;
    const absl::Status status = Load(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(MessageOf(status),
              "the checkpoint does not fit TinyForTest: 1 missing: model.norm.weight; "
              "2 misshapen: model.embed_tokens.weight: shape [2, 2], expected [24, 16], "
              "lm_head.weight: type I64, expected a float; 2 unread: extra.bias, model.nrm.weight");
  }
}

TEST(AutoModel, LongListsOfFaultyTensorsAreWhole) {
  std::vector<TestTensor> tensors = TinyTensors();
  for (int i = 0; i < 1000; ++i) tensors.push_back({"extra." + std::to_string(i), "F32", {0}, ""});
  const CheckpointFolder folder;
  folder.Write("config.json", kTinyConfig);
  folder.WriteTensors("model.safetensors", tensors);
  const std::string message = MessageOf(Load(PlainOptions(folder.path())).status());
  EXPECT_THAT(message, HasSubstr("1000 unread: extra.0, extra.1, "));
  for (int i = 0; i < 1000; ++i) EXPECT_THAT(message, HasSubstr("extra." + std::to_string(i)));
}

TEST(AutoModel, ATiedTensorMayBeStoredTwiceIfBothAreEqual) {
  std::vector<TestTensor> tensors = TinyTensors();
  const auto copy = std::ranges::find(tensors, "lm_head.weight", &TestTensor::name);
  copy->bytes = std::ranges::find(tensors, "model.embed_tokens.weight", &TestTensor::name)->bytes;
  const CheckpointFolder folder;
  WriteTiny(folder);
  folder.WriteTensors("model.safetensors", tensors);
  LoadOptions options = PlainOptions(folder.path());
  options.config_overrides = R"({"tie_word_embeddings": true})";
  const auto loaded = Load(options);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->report.unread_tensors, ElementsAre("lm_head.weight"));
  copy->bytes[5] ^= 1;
  folder.WriteTensors("model.safetensors", tensors);
  EXPECT_THAT(MessageOf(Load(options).status()),
              HasSubstr("lm_head.weight differs from model.embed_tokens.weight, to which tie_word_embeddings ties it"));
}

TEST(AutoModel, EndTokensOutsideTheVocabularyAreLeftOut) {
  LoadOptions options = PlainOptions();
  options.config_json = kTinyConfig;
  options.config_overrides = R"({"eos_token_id": [3, 24, 128001]})";
  const auto loaded = Load(options);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->generation.eos_token_ids, ElementsAre(3));
}

TEST(AutoModel, UnreadTensorsAreReportedWhereTheRowOrTheClientAllowsThem) {
  std::vector<TestTensor> tensors = TinyTensors();
  tensors.push_back({"model.layers.0.rotary_emb.inv_freq", "F32", {1}, "1234"});
  const CheckpointFolder folder;
  folder.Write("config.json", kTinyConfig);
  folder.WriteTensors("model.safetensors", tensors);
  const auto ignorable = Load(PlainOptions(folder.path()));
  ASSERT_TRUE(ignorable.ok()) << ignorable.status();
  EXPECT_THAT(ignorable->report.unread_tensors, ElementsAre("model.layers.0.rotary_emb.inv_freq"));
  tensors.push_back({"extra.bias", "F32", {1}, "1234"});
  folder.WriteTensors("model.safetensors", tensors);
  EXPECT_FALSE(Load(PlainOptions(folder.path())).ok());
  LoadOptions options = PlainOptions(folder.path());
  options.allow_unread_tensors = true;
  const auto allowed = Load(options);
  ASSERT_TRUE(allowed.ok()) << allowed.status();
  EXPECT_THAT(allowed->report.unread_tensors, ElementsAre("extra.bias", "model.layers.0.rotary_emb.inv_freq"));
}

TEST(AutoModel, ATiedHeadNeedsNoTensorOfItsOwn) {
  std::vector<TestTensor> tensors = TinyTensors();
  tensors.erase(tensors.begin() + 2);
  const CheckpointFolder folder;
  folder.Write("config.json", kTinyConfig);
  folder.WriteTensors("model.safetensors", tensors);
  EXPECT_FALSE(Load(PlainOptions(folder.path())).ok());
  LoadOptions options = PlainOptions(folder.path());
  options.config_overrides = R"({"tie_word_embeddings": true})";
  EXPECT_TRUE(Load(options).ok());
}

TEST(AutoModel, CheckOnlyPlansEverythingAndReadsNothing) {
  const CheckpointFolder folder;
  WriteTiny(folder);
  LastTiny().clear();
  LoadOptions options = PlainOptions(folder.path());
  options.check_only = true;
  const auto checked = Load(options);
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->runner, nullptr);
  EXPECT_TRUE(LastTiny().empty());
  EXPECT_EQ(checked->report.info.num_parameters, 2 * 24 * 16 + 16 + 2 * (24 * 16 + 24));
  EXPECT_EQ(checked->report.attention_backend, "eager");
  EXPECT_GT(checked->report.kv_bytes, 0);
}

TEST(AutoModel, ACancelledLoadEndsWithinOneTensorAndKeepsNothing) {
  const CheckpointFolder folder;
  WriteTiny(folder);
  for (const std::string phase : {"config", "plan", "weights", "engine"}) {
    LastTiny().clear();
    std::atomic<bool> cancelled = false;
    LoadContext context;
    context.cancelled = &cancelled;
    context.progress = [&](const LoadProgress& progress) { cancelled = cancelled || progress.phase == phase; };
    const auto loaded = AutoModel::Load(PlainOptions(folder.path()), context);
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kCancelled) << phase;
    EXPECT_EQ(LastTiny().empty(), phase != "engine") << phase;
  }
}

TEST(AutoModel, BrokenFilesAreTheCheckpointsFaultAndToldWithoutItsPath) {
  const std::string weights = SafetensorsOf(TinyTensors());
  const std::vector<std::pair<std::string, std::string>> faults = {
      {"config.json", "{"},
      {"config.json", R"({"architectures": ["TinyForTest"], "hidden_size": -1})"},
      {"generation_config.json", "[]"},
      {"modules.json", "{}"},
      {"tokenizer.json", "{}"},
      {"model.safetensors", weights.substr(0, weights.size() - 1)},
      {"model.safetensors", ""},
  };
  for (const auto& [file, text] : faults) {
    const CheckpointFolder folder;
    WriteTiny(folder);
    folder.Write(file, text);
    const absl::Status status = Load(PlainOptions(folder.path())).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << file << ": " << status;
    EXPECT_THAT(MessageOf(status), AllOf(HasSubstr(file.substr(0, file.find('.'))), Not(HasSubstr(folder.path()))));
  }
}

TEST(AutoModel, MissingFilesAreNamed) {
  const CheckpointFolder folder;
  EXPECT_EQ(Load(PlainOptions(folder.path())).status().message(), "config.json: no such file");
  EXPECT_EQ(Load(PlainOptions(folder.path())).status().code(), absl::StatusCode::kFailedPrecondition);
  folder.Write("config.json", kTinyConfig);
  EXPECT_THAT(MessageOf(Load(PlainOptions(folder.path())).status()), HasSubstr("model.safetensors: no such file"));
  EXPECT_EQ(Load(PlainOptions(folder.path())).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Load(PlainOptions(folder.path() + "/gone")).status().code(), absl::StatusCode::kNotFound);
}

LoadOptions FromSeed(uint64_t seed, const std::string& dtype) {
  LoadOptions options = PlainOptions();
  options.config_json = kTinyConfig;
  options.config_overrides = R"({"hidden_size": 64, "vocab_size": 1000, "initializer_range": 0.5})";
  options.seed = seed;
  options.torch_dtype = dtype;
  return options;
}

TEST(FromConfig, WeightsAreAFunctionOfTheSeedAndEqualInEveryTypeButForRounding) {
  ASSERT_TRUE(Load(FromSeed(7, "float32")).ok()) << Load(FromSeed(7, "float32")).status();
  const std::map<std::string, at::Tensor> first = LastTiny();
  ASSERT_TRUE(Load(FromSeed(7, "auto")).ok());
  for (const auto& [name, tensor] : LastTiny()) EXPECT_TRUE(tensor.equal(first.at(name))) << name;
  ASSERT_TRUE(Load(FromSeed(7, "bfloat16")).ok());
  for (const auto& [name, tensor] : LastTiny()) EXPECT_TRUE(tensor.equal(first.at(name).to(at::kBFloat16))) << name;
  ASSERT_TRUE(Load(FromSeed(8, "float32")).ok());
  EXPECT_FALSE(LastTiny()["lm_head.weight"].equal(first.at("lm_head.weight")));
}

TEST(FromConfig, MatricesAreNormalNormWeightsOneAndBiasesZero) {
  ASSERT_TRUE(Load(FromSeed(1, "float32")).ok());
  const at::Tensor embed = LastTiny()["model.embed_tokens.weight"];
  const double error = 0.5 / std::sqrt(64000.0);  // standard error of the mean
  EXPECT_NEAR(embed.mean().item<double>(), 0.0, 5 * error);
  EXPECT_NEAR(embed.std().item<double>(), 0.5, 5 * error);
  EXPECT_NEAR((embed / 0.5).pow(4).mean().item<double>(), 3.0, 0.2);  // kurtosis of a normal distribution
  EXPECT_FALSE(embed.equal(LastTiny()["lm_head.weight"]));
  EXPECT_TRUE(LastTiny()["model.norm.weight"].equal(at::ones({64})));
  EXPECT_TRUE(LastTiny()["layers.0.qk.bias"].equal(at::zeros({96})));
}

TEST(FromConfig, AModelThatCannotFitIsRefusedBeforeAnythingIsAllocated) {
  LoadOptions options = PlainOptions();
  options.config_json = kTinyConfig;
  options.config_overrides = R"({"hidden_size": 1048576, "vocab_size": 16777216})";
  const absl::Status status = Load(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(MessageOf(status), AllOf(HasSubstr("the model needs 153932181536768 bytes"), HasSubstr("are available")));
}

}  // namespace
}  // namespace automodeld
