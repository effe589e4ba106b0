// Every option of the factory: what it accepts, what it falls back to, what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/auto_model.h"
#include "tests/models/tiny_model.h"

namespace automodeld {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A load of the tiny model from its configuration.
class LoadOption : public testing::Test {
 protected:
  LoadOption() { options_.config_json = kTinyConfig; }

  absl::StatusOr<LoadedModel> Load() const { return AutoModel::Load(options_, {}); }
  LoadReport Report() const {
    auto loaded = Load();
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded.ok() ? loaded->report : LoadReport{};
  }
  void ExpectRefused(absl::StatusCode code, const std::string& message) const {
    const absl::Status status = Load().status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  LoadOptions options_ = PlainOptions();
};

TEST_F(LoadOption, DtypeIsReadInEverySpelling) {
  const std::vector<std::pair<std::string, std::string>> spellings = {
      {"bfloat16", "bfloat16"}, {"bf16", "bfloat16"}, {"torch.bfloat16", "bfloat16"}, {"BFloat16", "bfloat16"},
      {"float16", "float16"},   {"half", "float16"},  {"torch.half", "float16"},      {"float32", "float32"},
      {"float", "float32"},     {"FLOAT", "float32"}, {"Torch.Float32", "float32"},   {"auto", "float32"}};
  options_.check_only = true;
  for (const auto& [spelling, dtype] : spellings) {
    options_.torch_dtype = spelling;
    EXPECT_EQ(Report().info.dtype, dtype) << spelling;
  }
  for (const std::string spelling : {"", "int8", "float64", "torch.", "bfloat"}) {
    options_.torch_dtype = spelling;
    ExpectRefused(
        absl::StatusCode::kInvalidArgument,
        "torch_dtype: \"" + spelling + "\" is not one of auto, bfloat16, bf16, float16, half, float32, float");
  }
}

TEST_F(LoadOption, DtypeAutoTakesTheConfigurationsThenTheFirstTensors) {
  options_.check_only = true;
  for (const std::string key : {"dtype", "torch_dtype"}) {
    options_.config_overrides = "{\"" + key + "\": \"bfloat16\"}";
    EXPECT_EQ(Report().info.dtype, "bfloat16") << key;
    options_.config_overrides = "{\"" + key + "\": \"int4\"}";
    ExpectRefused(absl::StatusCode::kInvalidArgument, key + ": \"int4\" is not one of");
  }
  options_.config_overrides = "";
  const CheckpointFolder folder;
  WriteTiny(folder);
  std::vector<TestTensor> tensors = TinyTensors();
  tensors[0] = Converted(tensors[0], "F16");
  folder.WriteTensors("model.safetensors", tensors);
  options_.path = folder.path();
  EXPECT_EQ(Report().info.dtype, "float16");
}

TEST_F(LoadOption, ArchitectureIsChosenByNameThenByTypeAndClass) {
  options_.check_only = true;
  EXPECT_EQ(Report().info.architecture, "TinyForTest");
  options_.config_overrides = R"({"architectures": null, "model_type": "tiny-encoder"})";
  EXPECT_EQ(Report().info.architecture, "TinyEncoderForTest");
  options_.config_overrides = R"({"architectures": ["TinyForMaskedLM"], "model_type": "tiny-encoder"})";
  options_.auto_class = AutoClass::kEmbedding;
  EXPECT_EQ(Report().info.architecture, "TinyEncoderForTest");
  EXPECT_FALSE(Report().info.can_generate);
  options_.auto_class = AutoClass::kCausalLM;
  ExpectRefused(absl::StatusCode::kUnimplemented, "architecture TinyForMaskedLM is not known; known ones: BertModel, ");
}

TEST_F(LoadOption, AutoClassMustBeOneOfTheArchitectures) {
  options_.check_only = true;
  options_.auto_class = AutoClass::kEmbedding;
  EXPECT_FALSE(Report().info.can_generate);
  EXPECT_TRUE(Report().info.can_embed);
  options_.auto_class = AutoClass::kCausalLM;
  EXPECT_TRUE(Report().info.can_generate);
  options_.auto_class = AutoClass::kImageTextToText;
  ExpectRefused(absl::StatusCode::kInvalidArgument,
                "auto_class: IMAGE_TEXT_TO_TEXT is not one of TinyForTest's: CAUSAL_LM, EMBEDDING");
}

TEST_F(LoadOption, UnknownArchitecturesAreToldTheKnownOnes) {
  options_.config_overrides = R"({"architectures": ["GptNeverForCausalLM"]})";
  ExpectRefused(absl::StatusCode::kUnimplemented, "architecture GptNeverForCausalLM is not known; known ones: ");
  ExpectRefused(absl::StatusCode::kUnimplemented, "TinyEncoderForTest, TinyForEveryClassTest, TinyForTest");
  options_.config_overrides = R"({"architectures": ["GptNeverForCausalLM"], "auto_map": {"AutoModel": "x.Y"}})";
  ExpectRefused(absl::StatusCode::kUnimplemented, "GptNeverForCausalLM needs remote code, which automodeld never runs");
}

TEST_F(LoadOption, DevicesThatAreNotThereAreRefused) {
  for (const std::string device : {"tpu", "", "cuda:", "cuda:x", "cuda:-1", "cuda:99999999999", "CPU"}) {
    options_.device = device;
    ExpectRefused(absl::StatusCode::kInvalidArgument, "device: \"");
  }
  if (at::hasCUDA()) GTEST_SKIP() << "the rest is about machines without a GPU";
  options_.device = "auto";
  EXPECT_EQ(Report().info.device, "cpu");
  EXPECT_TRUE(Report().attempts.empty());
  for (const std::string device : {"cuda", "cuda:0"}) {
    options_.device = device;
    ExpectRefused(absl::StatusCode::kFailedPrecondition, "device: " + device + ": this machine has no usable GPU");
  }
}

TEST_F(LoadOption, AttentionTakesTheRungAskedForOrTheNextOnesWithAnEntryEach) {
  options_.attn_implementation = "eager";
  EXPECT_EQ(Report().attention_backend, "eager");
  options_.attn_implementation = "sdpa";
  EXPECT_TRUE(Report().attention_backend.starts_with("sdpa"));
  options_.attn_implementation = "flash_attention_2";
  const LoadReport report = Report();
  if (report.attention_backend.starts_with("flash_attention_2")) {
    EXPECT_TRUE(report.attempts.empty());
  } else {
    ASSERT_EQ(report.attempts.size(), 1U);
    EXPECT_EQ(report.attempts[0].what, "attn_implementation=flash_attention_2");
    EXPECT_EQ(report.attempts[0].fallback, "sdpa");
    EXPECT_FALSE(report.attempts[0].error.empty());
    options_.allow_fallback = false;
    ExpectRefused(absl::StatusCode::kFailedPrecondition, "attn_implementation=flash_attention_2: ");
  }
  options_.attn_implementation = "flash";
  ExpectRefused(absl::StatusCode::kInvalidArgument,
                "attn_implementation: \"flash\" is not one of flash_attention_2, sdpa, eager");
}

TEST_F(LoadOption, SdpaMethodsAreTriedInTheirOrderAndNeverTwice) {
  options_.attn_implementation = "sdpa";
  options_.sdpa_method = {SdpaMethod::kMath, SdpaMethod::kFlashAttention};
  EXPECT_EQ(Report().attention_backend, "sdpa:MATH");
  EXPECT_TRUE(Report().attempts.empty());
  options_.sdpa_method = {SdpaMethod::kMath, SdpaMethod::kMath};
  ExpectRefused(absl::StatusCode::kInvalidArgument, "sdpa_method: MATH occurs twice");
}

TEST_F(LoadOption, SdpaMethodsThatDoNotFitFallBackToLibtorchsOrder) {
  options_.attn_implementation = "sdpa";
  options_.sdpa_method = {SdpaMethod::kCudnnAttention};  // never on the CPU
  const LoadReport report = Report();
  ASSERT_EQ(report.attempts.size(), 1U);
  EXPECT_EQ(report.attempts[0].what, "sdpa_method=[CUDNN_ATTENTION]");
  EXPECT_TRUE(report.attention_backend.starts_with("sdpa"));
  options_.allow_fallback = false;
  ExpectRefused(absl::StatusCode::kFailedPrecondition, "sdpa_method=[CUDNN_ATTENTION]: ");
}

TEST_F(LoadOption, SdpaMethodsWithoutEffectAreNotedAndNoFallback) {
  options_.attn_implementation = "eager";
  options_.sdpa_method = {SdpaMethod::kMath};
  options_.allow_fallback = false;  // nothing failed
  EXPECT_TRUE(Report().attempts.empty());
  EXPECT_THAT(Report().notes, ElementsAre("sdpa_method=[MATH] has no effect under eager"));
  options_.attn_implementation = "sdpa";
  options_.use_sdpa_patching = false;
  EXPECT_EQ(Report().attention_backend, "sdpa");
  EXPECT_TRUE(Report().attempts.empty());
  EXPECT_THAT(Report().notes, ElementsAre("sdpa_method=[MATH] has no effect under use_sdpa_patching=false"));
}

TEST_F(LoadOption, FusedKernelsReplaceTheOpsThatTheArchitectureCalls) {
  EXPECT_TRUE(Report().patches.empty());
  options_.use_liger_kernel = true;
  const LoadReport report = Report();
  EXPECT_TRUE(report.attempts.empty());
  ASSERT_EQ(report.patches.size(), 1U);
  EXPECT_EQ(report.patches[0].op, "sample");  // the tiny model's only one
  EXPECT_EQ(report.patches[0].from, "eager");
  EXPECT_EQ(report.patches[0].to, "cpu");
}

TEST_F(LoadOption, Fp8RecipesAreChecked) {
  options_.fp8_config = Fp8Config{.recipe_name = "blockwise"};
  ExpectRefused(absl::StatusCode::kInvalidArgument, "fp8_config.recipe_name: \"blockwise\" is not one of");
}

TEST_F(LoadOption, WhatIsNotBuiltIsRefusedByName) {
  options_.engine.enable_prefix_caching = true;
  ExpectRefused(absl::StatusCode::kUnimplemented, "engine.enable_prefix_caching: not supported yet");
  options_.engine.enable_prefix_caching = false;
}

TEST_F(LoadOption, KvCacheDtypeIsTheModelsOrAnyOfTheWords) {
  options_.engine = {.max_model_len = 64, .max_num_seqs = 1};
  const auto element_bytes = [this](const std::string& word) {
    constexpr int64_t kElements = 5 * 2 * 2 * 16 * 16;  // pages (one is scratch), layers, K and V, tokens, width
    options_.engine.kv_cache_dtype = word;
    return Report().kv_bytes / kElements;
  };
  for (const auto& [dtype, bytes] : {std::pair("float32", 4), std::pair("bfloat16", 2)}) {
    options_.torch_dtype = dtype;
    EXPECT_EQ(element_bytes("auto"), bytes);
    EXPECT_EQ(element_bytes("float32"), 4);
    EXPECT_EQ(element_bytes("bfloat16"), 2);
    EXPECT_EQ(element_bytes("float16"), 2);
    for (const char* fp8 : {"float8_e4m3", "fp8", "fp8_e4m3"}) EXPECT_EQ(element_bytes(fp8), 1) << fp8;
  }
  options_.engine.kv_cache_dtype = "int3";
  ExpectRefused(absl::StatusCode::kInvalidArgument,
                "engine.kv_cache_dtype: \"int3\" is not one of auto, float32, float16, bfloat16, float8_e4m3, fp8, "
                "fp8_e4m3");
}

TEST_F(LoadOption, AKvCacheDtypeForAModelWithoutACacheIsNoted) {
  const std::string note = "engine.kv_cache_dtype has no effect: an encoder has no KV cache";
  options_.engine.kv_cache_dtype = "fp8";
  EXPECT_EQ(std::ranges::count(Report().notes, note), 0);
  options_.config_overrides = R"({"architectures": ["TinyEncoderForTest"]})";
  EXPECT_EQ(std::ranges::count(Report().notes, note), 1);
  options_.engine.kv_cache_dtype = "auto";
  EXPECT_EQ(std::ranges::count(Report().notes, note), 0);
}

TEST_F(LoadOption, OverridesChangeTheConfiguration) {
  options_.check_only = true;
  options_.config_overrides = R"({"num_hidden_layers": 5})";
  EXPECT_EQ(Report().info.num_layers, 5);
  options_.config_overrides = R"({"num_hidden_layers": 0})";
  ExpectRefused(absl::StatusCode::kInvalidArgument, "config_json: num_hidden_layers: 0 is outside 1..1024");
  options_.config_overrides = "nonsense";
  ExpectRefused(absl::StatusCode::kInvalidArgument, "config_overrides: not valid JSON");
}

TEST_F(LoadOption, OverridesThatTheArchitectureDoesNotReadAreRefused) {
  options_.check_only = true;
  options_.config_overrides = R"({"num_hidden_layers": 1, "n_layer": 5, "use_cache": false})";
  ExpectRefused(absl::StatusCode::kInvalidArgument, "config_overrides: TinyForTest does not read n_layer, use_cache");
  options_.config_json = R"({"model_type": "llama", "num_hidden_layers": 1})";
  options_.config_overrides = R"({"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rms_norm_eps": 1e-5})";
  EXPECT_TRUE(Load().ok());
  options_.config_overrides = R"({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "scale": 3}})";
  ExpectRefused(absl::StatusCode::kInvalidArgument, "LlamaForCausalLM does not read rope_scaling.scale");
  options_.config_overrides = R"({"rope_scaling": {"rope_type": "linear"}, "rope_parameters": {"factor": 2.0}})";
  ExpectRefused(absl::StatusCode::kInvalidArgument, "does not read rope_parameters.factor");
}

TEST_F(LoadOption, ShapesThatCannotBeAreRefused) {
  const std::vector<std::pair<std::string, std::string>> rows = {
      {R"("hidden_size": 16)", "num_attention_heads: 32 does not divide hidden_size 16"},
      {R"("hidden_size": 100, "num_attention_heads": 3)", "num_attention_heads: 3 does not divide hidden_size 100"},
      {R"("hidden_size": 1048576, "num_attention_heads": 1)", "gives heads of 1048576, more than 1024"},
      {R"("head_dim": 0)", "head_dim: 0 is outside 2..1024"},
      {R"("head_dim": 33)", "head_dim: 33 is odd"},
      {R"("num_key_value_heads": 5)", "num_key_value_heads: 5 does not divide num_attention_heads 32"},
      {R"("num_hidden_layers": 0)", "num_hidden_layers: 0 is outside"},
      {R"("vocab_size": -1)", "vocab_size: -1 is outside"},
      {R"("max_position_embeddings": 0)", "max_position_embeddings: 0 is outside"},
      {R"("rope_scaling": {"rope_type": "yarn", "factor": 2}, "rope_theta": 1)", "rope_theta: 1 is not above 1"},
      {R"("partial_rotary_factor": 0.5)", "partial_rotary_factor: 0.5 is outside 1..1"},
      {R"("rope_parameters": {"partial_rotary_factor": 0.5})", "partial_rotary_factor: 0.5 is outside 1..1"},
      {R"("rope_scaling": {"rope_type": "longrope"})", "rope_type: \"longrope\" is not one of"}};
  options_.check_only = true;
  for (const auto& [keys, message] : rows) {
    options_.config_json = R"({"model_type": "llama", )" + keys + "}";
    ExpectRefused(absl::StatusCode::kInvalidArgument, message);
  }
  options_.config_json = R"({"model_type": "qwen2", "use_sliding_window": true, "layer_types": ["chunked"]})";
  ExpectRefused(absl::StatusCode::kInvalidArgument, "layer_types: \"chunked\" is not one of");
}

TEST_F(LoadOption, EngineLimitsReachTheRunner) {
  options_.engine = {.max_model_len = 33, .max_num_seqs = 3, .max_num_batched_tokens = 7};
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const RunnerLimits& limits = loaded->runner->limits();
  EXPECT_EQ(limits.max_model_len, 33);
  EXPECT_EQ(limits.max_num_seqs, 3);
  EXPECT_EQ(limits.max_num_batched_tokens, 7);
  EXPECT_EQ(limits.num_pages, 3 * 3 + 1);
  EXPECT_FALSE(limits.ragged);
}

TEST_F(LoadOption, AnEncoderRunsRaggedWithoutPages) {
  options_.config_overrides = R"({"architectures": ["TinyEncoderForTest"]})";
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(loaded->runner->limits().ragged);
  EXPECT_EQ(loaded->runner->limits().num_pages, 0);
  EXPECT_EQ(loaded->report.kv_bytes, 0);
  EXPECT_EQ(loaded->embedding.pooling, Pooling::kMean);
  EXPECT_FALSE(loaded->report.info.can_generate);
}

}  // namespace
}  // namespace automodeld
