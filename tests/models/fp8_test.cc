// fp8_config: what is converted, what is not and why, and what becomes of a load whose conversion fails.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/auto_model.h"
#include "core/memory.h"
#include "tests/models/tiny_model.h"

namespace automodeld {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr char kLlama[] = R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 128,
    "max_position_embeddings": 64})";

absl::StatusOr<LoadedModel> Load(const LoadOptions& options, const LoadContext& context = {}) {
  return AutoModel::Load(options, context);
}

LoadReport Report(const LoadOptions& options) {
  const auto loaded = Load(options);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? loaded->report : LoadReport{};
}

LoadOptions Llama(const Fp8Config& fp8) {
  LoadOptions options = PlainOptions();
  options.config_json = kLlama;
  options.torch_dtype = "bfloat16";
  options.fp8_config = fp8;
  return options;
}

std::map<std::string, std::string> Reasons(const Fp8Report& report) {
  std::map<std::string, std::string> reasons;
  for (const auto& [fqn, reason] : report.skipped) reasons[fqn] = reason;
  return reasons;
}

TEST(Fp8, TheReportCountsLinearsByHuggingFacesNames) {
  const LoadReport report = Report(Llama({.emulate = true}));
  EXPECT_THAT(report.attempts, IsEmpty());
  ASSERT_TRUE(report.fp8.has_value());
  EXPECT_TRUE(report.fp8->success);
  EXPECT_EQ(report.fp8->converted, 2 * 7);
  EXPECT_EQ(report.fp8->total, 2 * 7 + 1);
  ASSERT_THAT(report.fp8->modules, SizeIs(2 * 7));
  std::vector<std::string> names;
  for (const auto& module : report.fp8->modules) names.push_back(module.fqn);
  EXPECT_THAT(
      std::vector<std::string>(names.begin(), names.begin() + 7),
      ElementsAre("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj",
                  "model.layers.0.self_attn.v_proj", "model.layers.0.self_attn.o_proj", "model.layers.0.mlp.gate_proj",
                  "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"));
  EXPECT_THAT(report.fp8->modules[1].shape, ElementsAre(32, 64));
  EXPECT_THAT(report.fp8->modules[6].shape, ElementsAre(64, 96));
  ASSERT_THAT(report.fp8->skipped, SizeIs(1));
  EXPECT_EQ(report.fp8->skipped[0].fqn, "lm_head");
  EXPECT_EQ(report.fp8->skipped[0].reason, "include_lm_head is false");
  EXPECT_THAT(report.notes, Contains(HasSubstr("activations are scaled per token")));
}

TEST(Fp8, WeightsTakeAByteEachAndFourBytesAnOutputChannel) {
  const int64_t linears = 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 96), head = 128 * 64;
  const int64_t channels = 2 * (64 + 32 + 32 + 64 + 96 + 96 + 64), norms = 5 * 64;
  EXPECT_EQ(Report(Llama({.emulate = true})).weight_bytes, linears + 4 * channels + 2 * (2 * head + norms));
  const LoadReport with_head = Report(Llama({.emulate = true, .include_lm_head = true}));
  EXPECT_EQ(with_head.weight_bytes, linears + head + 4 * (channels + 128) + 2 * (head + norms));
  EXPECT_EQ(with_head.fp8->converted, 2 * 7 + 1);
  LoadOptions tied = Llama({.emulate = true, .include_lm_head = true});
  tied.config_overrides = R"({"tie_word_embeddings": true})";
  const LoadReport own_copy = Report(tied);
  EXPECT_EQ(own_copy.weight_bytes, with_head.weight_bytes);
  EXPECT_EQ(own_copy.fp8->converted, 2 * 7 + 1);
  tied.fp8_config->include_lm_head = false;
  EXPECT_EQ(Report(tied).weight_bytes, linears + 4 * channels + 2 * (head + norms));
}

TEST(Fp8, AFilterThatHitsOneMemberHoldsForItsGroup) {
  const LoadReport report = Report(Llama({.filter_fqns = {"1.self_attn.k_proj", "0.mlp.down"}, .emulate = true}));
  EXPECT_EQ(report.fp8->converted, 2 * 7 - 4);
  EXPECT_EQ(report.fp8->total, 2 * 7 + 1);
  const auto reasons = Reasons(*report.fp8);
  EXPECT_THAT(reasons, SizeIs(5));
  EXPECT_EQ(reasons.at("model.layers.1.self_attn.k_proj"), "filter_fqns: 1.self_attn.k_proj");
  EXPECT_EQ(reasons.at("model.layers.1.self_attn.q_proj"),
            "kept as one matrix with model.layers.1.self_attn.k_proj, which is skipped: filter_fqns: "
            "1.self_attn.k_proj");
  EXPECT_TRUE(reasons.contains("model.layers.1.self_attn.v_proj"));
  EXPECT_EQ(reasons.at("model.layers.0.mlp.down_proj"), "filter_fqns: 0.mlp.down");
  EXPECT_THAT(report.notes, Contains("FP8: what skips one member of a fused group skips the group"));
}

TEST(Fp8, ThatNothingIsConvertedIsNoted) {
  const LoadReport report = Report(Llama({.filter_fqns = {"proj"}, .emulate = true}));
  EXPECT_FALSE(report.fp8->success);
  EXPECT_EQ(report.fp8->converted, 0);
  EXPECT_THAT(report.attempts, IsEmpty());
  EXPECT_THAT(report.notes, ElementsAre("fp8_config converted nothing: every linear is skipped"));
}

TEST(Fp8, DimensionsThatSixteenDoesNotDivideAreSkipped) {
  LoadOptions options = Llama({.emulate = true});
  options.config_overrides = R"({"intermediate_size": 88})";
  const LoadReport report = Report(options);
  EXPECT_EQ(report.fp8->converted, 2 * 4);
  for (const std::string name : {"gate_proj", "up_proj", "down_proj"}) {
    EXPECT_EQ(Reasons(*report.fp8).at("model.layers.1.mlp." + name), "dims not divisible by 16");
  }
}

TEST(Fp8, WithoutAGemmItFallsBackAndHintsAtEmulate) {
  LoadOptions options = Llama({.recipe_name = "rowwise"});
  const LoadReport report = Report(options);
  ASSERT_THAT(report.attempts, SizeIs(1));
  EXPECT_EQ(report.attempts[0].what, "fp8_config=rowwise");
  EXPECT_THAT(report.attempts[0].error, AllOf(HasSubstr("cpu has no FP8 GEMM"), HasSubstr("fp8_config.emulate")));
  EXPECT_EQ(report.attempts[0].fallback, "unquantised");
  EXPECT_FALSE(report.fp8->success);
  EXPECT_EQ(report.fp8->converted, 0);
  EXPECT_EQ(report.fp8->total, 2 * 7 + 1);
  EXPECT_EQ(Reasons(*report.fp8).at("model.layers.0.mlp.up_proj"), "cpu has no FP8 GEMM");
  options.allow_fallback = false;
  const absl::Status status = Load(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("fp8_config=rowwise: cpu has no FP8 GEMM"));
}

TEST(Fp8, RecipesAreToldApartAndTheHighPrecisionOneEqualsRowwise) {
  LoadOptions options = PlainOptions();
  options.config_json = kTinyConfig;
  options.config_overrides = R"({"hidden_size": 64, "vocab_size": 128, "initializer_range": 0.5})";
  ASSERT_TRUE(Load(options).ok());
  const std::map<std::string, at::Tensor> plain = LastTiny();
  for (const std::string recipe : {"", "tensorwise", "rowwise", "rowwise_with_gw_hp"}) {
    options.fp8_config = Fp8Config{.recipe_name = recipe, .emulate = true, .include_lm_head = true};
    const LoadReport report = Report(options);
    EXPECT_EQ(report.fp8->converted, 5) << recipe;
    EXPECT_EQ(std::ranges::any_of(report.notes, [](auto& n) { return n.find("in training only") != n.npos; }),
              recipe == "rowwise_with_gw_hp");
    const bool by_row = recipe.starts_with("rowwise");
    for (const std::string name : {"layers.1.qk", "lm_head"}) {
      // The reference: torchao's formula, for the tensors of the checkpoint one by one.
      const std::vector<at::Tensor> members = plain.at(name + ".weight").split(name == "lm_head" ? 128 : 64);
      std::vector<at::Tensor> values, scales;
      for (const at::Tensor& w : members) {
        const at::Tensor largest = by_row ? w.abs().amax({1}, true) : w.abs().amax().expand({w.size(0), 1});
        scales.push_back(largest / 448.0);
        values.push_back((w / scales.back()).clamp(-448, 448).to(at::kFloat8_e4m3fn).view(at::kByte));
      }
      EXPECT_TRUE(LastTiny().at(name + ".scale").equal(at::cat(scales))) << recipe << " " << name;
      EXPECT_TRUE(LastTiny().at(name + ".weight").view(at::kByte).equal(at::cat(values))) << recipe << " " << name;
    }
  }
}

// Fails from the given conversion on, and calls `then` first.
LoadContext FailingAt(
    int conversion, const std::function<void()>& then = [] {}) {
  LoadContext context;
  context.fault = [conversion, then, count = std::make_shared<int>(0)](std::string_view step) -> absl::Status {
    if (step != "fp8" || ++*count < conversion) return absl::OkStatus();
    then();
    return absl::InternalError("no luck");
  };
  return context;
}

TEST(Fp8, AFailureHalfWayReadsAgainOnlyWhatWasToBeConverted) {
  // k of hidden 32 has 16 rows: all linears but lm_head (vocabulary 24) are converted.
  std::vector<TestTensor> first, second;
  for (const TestTensor& tensor : TinyTensors()) {
    std::vector<int64_t> shape = tensor.shape;
    for (int64_t& dim : shape) dim = dim == 16 ? 32 : dim == 8 ? 16 : dim;
    const auto numel = static_cast<size_t>(c10::multiply_integers(shape));
    first.push_back({tensor.name, "F32", shape, FloatBytes(std::vector<float>(numel, 1.0F))});
    second.push_back({tensor.name, "F32", shape, FloatBytes(std::vector<float>(numel, 2.0F))});
  }
  const CheckpointFolder folder;
  folder.Write("config.json", kTinyConfig);
  folder.WriteTensors("model.safetensors", first);
  LoadOptions options = PlainOptions(folder.path());
  options.config_overrides = R"({"hidden_size": 32})";
  options.fp8_config = Fp8Config{.emulate = true};
  const auto loaded =
      Load(options, FailingAt(2, [&] { folder.WriteTensors("model.safetensors", second); }));  // the same file
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_THAT(loaded->report.attempts, SizeIs(1));
  EXPECT_EQ(loaded->report.attempts[0].what, "fp8_config=tensorwise");
  EXPECT_EQ(loaded->report.attempts[0].error, "no luck");
  EXPECT_FALSE(loaded->report.fp8->success);
  EXPECT_EQ(Reasons(*loaded->report.fp8).at("model.layers.0.q"), "no luck");
  EXPECT_EQ(loaded->report.weight_bytes, loaded->report.info.num_parameters * 4);
  for (const std::string name : {"model.embed_tokens.weight", "model.norm.weight", "layers.0.qk.bias"}) {
    EXPECT_TRUE(LastTiny().at(name).eq(1).all().item<bool>()) << name;
  }
  for (const std::string name : {"layers.0.qk.weight", "layers.1.qk.weight", "layers.1.qk.bias"}) {
    EXPECT_TRUE(LastTiny().at(name).eq(2).all().item<bool>()) << name;
  }
  options.allow_fallback = false;
  EXPECT_EQ(Load(options, FailingAt(1)).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Fp8, AQuantisedCheckpointWhoseStepFailsIsDequantised) {
  std::vector<TestTensor> tensors = TinyTensors(/*hidden=*/32);
  for (size_t i = 0, count = tensors.size(); i < count; ++i) {
    if (!tensors[i].name.starts_with("model.layers.") || !tensors[i].name.ends_with(".weight")) continue;
    const auto numel = static_cast<size_t>(c10::multiply_integers(tensors[i].shape));
    tensors[i] = {tensors[i].name, "F8_E4M3", tensors[i].shape, std::string(numel, '\x40')};  // 2
    tensors.push_back({tensors[i].name + "_scale", "F32", {1}, FloatBytes({0.75F})});
  }
  const CheckpointFolder folder;
  WriteTiny(folder, 32, "TinyForTest");
  folder.WriteTensors("model.safetensors", tensors);
  LoadOptions options = PlainOptions(folder.path());
  options.fp8_config = Fp8Config{.emulate = true};
  ASSERT_EQ(Report(options).fp8->converted, 4);
  EXPECT_EQ(LastTiny().at("layers.1.qk.weight").scalar_type(), at::kFloat8_e4m3fn);
  EXPECT_TRUE(LastTiny().at("layers.1.qk.scale").eq(0.75).all().item<bool>());
  const auto loaded = Load(options, FailingAt(2));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_THAT(loaded->report.attempts, SizeIs(1));
  EXPECT_EQ(loaded->report.attempts[0].what, "quantization_config=fp8");
  EXPECT_EQ(loaded->report.attempts[0].fallback, "dequantised to float32");
  EXPECT_EQ(Reasons(*loaded->report.fp8).at("model.layers.0.k"), "dequantised: no luck");
  EXPECT_TRUE(LastTiny().at("layers.1.qk.weight").eq(1.5).all().item<bool>());
}

TEST(Fp8, AModelThatDoesNotFitUnquantisedIsRefusedWithBothSizes) {
  // Two layers of 1.5 hidden^2: half of memory in FP8, twice as much as there is in float32.
  const auto hidden = static_cast<int64_t>(std::sqrt(static_cast<double>(AvailableMemory()) / 6)) / 32 * 32;
  LoadOptions options = PlainOptions();
  options.config_json = kTinyConfig;
  options.config_overrides = "{\"hidden_size\": " + std::to_string(hidden) + "}";
  options.fp8_config = Fp8Config{.emulate = true};
  const absl::Status status = Load(options, FailingAt(1)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  const int64_t rows = 3 * hidden / 2, plain = 4 * (48 * hidden + hidden + 2 * rows);
  const std::string sizes = fmt::format("unquantised the weights take {} bytes instead of {}: the model needs ",
                                        plain + 4 * 2 * rows * hidden, plain + 2 * rows * (hidden + 4));
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("fp8_config failed (no luck)"), HasSubstr(sizes)));
}

TEST(Fp8, NoOtherErrorIsOneOfTheStep) {
  LoadOptions options = Llama({.emulate = true});
  std::atomic<bool> cancelled = false;
  LoadContext context;
  context.cancelled = &cancelled;
  int conversions = 0;
  context.fault = [&](std::string_view step) {
    cancelled = cancelled || step == "fp8";
    conversions += step == "fp8" ? 1 : 0;
    return absl::OkStatus();
  };
  EXPECT_EQ(Load(options, context).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(conversions, 1);  // nothing more is converted
}

}  // namespace
}  // namespace automodeld
