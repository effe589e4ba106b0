// Steps of the factory that are made to fail, alone and together, in every class and from both entry points.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "core/auto_model.h"
#include "core/engine/engine.h"
#include "core/metrics.h"
#include "core/version.h"
#include "tests/engine/collecting_sink.h"
#include "tests/models/tiny_model.h"

namespace automodeld {
namespace {

using testing::Each;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

using Loader = std::function<absl::StatusOr<LoadedModel>(const LoadOptions&, const LoadContext&)>;

template <typename Class>
Loader FromPretrained() {
  return [](const LoadOptions& options, const LoadContext& context) {
    const CheckpointFolder folder;
    WriteTiny(folder, /*hidden=*/32, "TinyForEveryClassTest");
    return Class::FromPretrained(folder.path(), options, context);
  };
}

template <typename Class>
Loader FromConfig() {
  return [](const LoadOptions& options, const LoadContext& context) {
    return Class::FromConfig(TinyConfig(/*hidden=*/32, "TinyForEveryClassTest"), options, context);
  };
}

std::map<std::string, Loader> Loaders() {
  return {{"CausalLM pretrained", FromPretrained<AutoModelForCausalLM>()},
          {"CausalLM config", FromConfig<AutoModelForCausalLM>()},
          {"ImageTextToText pretrained", FromPretrained<AutoModelForImageTextToText>()},
          {"ImageTextToText config", FromConfig<AutoModelForImageTextToText>()},
          {"Embedding pretrained", FromPretrained<AutoModelForEmbedding>()},
          {"Embedding config", FromConfig<AutoModelForEmbedding>()}};
}

// Which steps fail: a bit each.
enum Failing { kAttention = 1, kFused = 2, kSdpa = 4, kFp8 = 8 };

std::string StepOf(int failing) {
  return failing == kAttention ? "flash_attention_2"
         : failing == kFused   ? "fused"
         : failing == kSdpa    ? "sdpa_method"
                               : "fp8";
}

// Counts how often a step is begun.
LoadContext ContextOf(int mask, std::map<std::string, int>& begun) {
  LoadContext context;
  context.fault = [mask, &begun](std::string_view step) -> absl::Status {
    ++begun[std::string(step)];
    for (const int failing : {kAttention, kFused, kSdpa, kFp8}) {
      if ((mask & failing) != 0 && step == StepOf(failing))
        return absl::UnimplementedError("forced: " + StepOf(failing));
    }
    return absl::OkStatus();
  };
  return context;
}

// SDPA is only reached below flash attention: a load whose attention step is not to fail begins there.
LoadOptions OptionsOf(int mask) {
  LoadOptions options = PlainOptions();
  options.attn_implementation = (mask & kAttention) != 0 ? "flash_attention_2" : "sdpa";
  options.use_liger_kernel = true;
  options.fp8_config = Fp8Config{.recipe_name = "rowwise", .emulate = true};
  options.engine.max_num_seqs = 3;
  return options;
}

std::vector<LoadAttempt> ExpectedAttempts(int mask) {
  std::vector<LoadAttempt> attempts;
  if ((mask & kAttention) != 0) {
    attempts.push_back({"attn_implementation=flash_attention_2", "forced: flash_attention_2", "sdpa"});
  }
  if ((mask & kFused) != 0) attempts.push_back({"use_liger_kernel", "forced: fused", "eager operations"});
  if ((mask & kSdpa) != 0) {
    attempts.push_back({"sdpa_method=[CUDNN_ATTENTION, FLASH_ATTENTION, EFFICIENT_ATTENTION, MATH]",
                        "forced: sdpa_method", "sdpa in libtorch's order"});
  }
  if ((mask & kFp8) != 0) attempts.push_back({"fp8_config=rowwise", "forced: fp8", "unquantised"});
  return attempts;
}

void ExpectAttempts(const std::vector<LoadAttempt>& got, const std::vector<LoadAttempt>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].what, expected[i].what);
    EXPECT_EQ(got[i].error, expected[i].error);
    EXPECT_EQ(got[i].fallback, expected[i].fallback);
  }
}

TEST(Fallbacks, EveryCombinationOfFailingStepsKeepsAllElseThatWasAskedFor) {
  for (const auto& [name, load] : Loaders()) {
    for (int mask = 0; mask < 16; ++mask) {
      SCOPED_TRACE(name + ", failing " + std::to_string(mask));
      std::map<std::string, int> begun;
      const auto loaded = load(OptionsOf(mask), ContextOf(mask, begun));
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      const LoadReport& report = loaded->report;
      ExpectAttempts(report.attempts, ExpectedAttempts(mask));
      EXPECT_EQ(report.attention_backend, (mask & kSdpa) != 0 ? "sdpa" : "sdpa:FLASH_ATTENTION");
      EXPECT_EQ(report.patches.size(), (mask & kFused) != 0 ? 0U : 1U);
      EXPECT_EQ(report.fp8->success, (mask & kFp8) == 0);
      EXPECT_EQ(report.fp8->converted, (mask & kFp8) != 0 ? 0 : 4);
      EXPECT_EQ(report.weight_bytes < report.info.num_parameters * 4, (mask & kFp8) == 0);
      EXPECT_EQ(loaded->runner->limits().max_num_seqs, 3);
      EXPECT_EQ(report.automodeld_version, Version());
      EXPECT_EQ(std::ranges::count(report.phase_seconds, "weights", &std::pair<std::string, double>::first),
                (mask & kFp8) != 0 ? 2 : 1);  // weights are read again only for the step that touches them
      begun.erase("fp8");                     // begun once per matrix; ended at the first where it fails
      EXPECT_THAT(begun, Each(Pair(testing::_, 1)));
    }
  }
}

TEST(Fallbacks, WithoutThemTheFirstFailureIsTheAnswer) {
  for (const auto& [name, load] : Loaders()) {
    for (int mask = 1; mask < 16; ++mask) {
      SCOPED_TRACE(name + ", failing " + std::to_string(mask));
      std::map<std::string, int> begun;
      LoadOptions options = OptionsOf(mask);
      options.allow_fallback = false;
      const absl::Status status = load(options, ContextOf(mask, begun)).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
      // The SDPA method is chosen as the rung is made, before the fused kernels.
      const int first = (mask & kAttention) != 0 ? kAttention : (mask & kSdpa) != 0 ? kSdpa : mask & -mask;
      EXPECT_THAT(std::string(status.message()), HasSubstr("forced: " + StepOf(first)));
    }
  }
}

TEST(Fallbacks, TheLadderEndsAtEagerWhoseFailureIsTheAnswer) {
  LoadOptions options = OptionsOf(kAttention);
  LoadContext context;
  context.fault = [](std::string_view step) -> absl::Status {
    const bool is_rung = step == "flash_attention_2" || step == "sdpa";
    return is_rung ? absl::UnimplementedError("no " + std::string(step)) : absl::OkStatus();
  };
  const auto loaded = FromConfig<AutoModelForCausalLM>()(options, context);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->report.attention_backend, "eager");
  ExpectAttempts(loaded->report.attempts, {{"attn_implementation=flash_attention_2", "no flash_attention_2", "sdpa"},
                                           {"attn_implementation=sdpa", "no sdpa", "eager"}});
  context.fault = [](std::string_view step) { return absl::UnimplementedError("no " + std::string(step)); };
  const absl::Status status = FromConfig<AutoModelForCausalLM>()(options, context).status();
  EXPECT_EQ(status, absl::UnimplementedError("no eager"));
}

TEST(Fallbacks, ErrorsThatAreNoFailureOfAStepEndTheLoadWithTheirOwnCode) {
  for (const std::string step : {"flash_attention_2", "fused", "fp8"}) {
    LoadContext context;
    context.fault = [&](std::string_view now) -> absl::Status {
      if (now == step) throw std::bad_alloc();
      return absl::OkStatus();
    };
    const auto loaded = FromConfig<AutoModelForCausalLM>()(OptionsOf(kAttention), context);
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kResourceExhausted) << step;
  }
}

// Greedy tokens and their log probabilities.
std::vector<float> Generated(const LoadOptions& options, const LoadContext& context, LoadReport& report) {
  absl::StatusOr<LoadedModel> loaded = AutoModel::Load(options, context);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  if (!loaded.ok()) return {};
  report = loaded->report;
  Metrics metrics;
  Engine engine("llama", std::move(loaded->runner), nullptr, {}, metrics.ForModel("llama"));
  const auto sink = std::make_shared<CollectingSink>();
  const auto request = std::make_shared<Request>();
  request->prompt = {1, 2, 3, 4, 5};
  request->sampling.temperature = 0;
  request->sampling.max_tokens = 12;
  request->sampling.logprobs = 0;
  request->sink = sink;
  EXPECT_TRUE(engine.Submit(std::span(&request, 1)).ok());
  const Answer answer = sink->AwaitFinish();
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  std::vector<float> numbers(answer.token_ids.begin(), answer.token_ids.end());
  for (const TokenLogprob& logprob : answer.logprobs) numbers.push_back(logprob.logprob);
  return numbers;
}

constexpr char kLlama[] = R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 128, "max_position_embeddings": 64,
    "initializer_range": 0.3})";

TEST(Fallbacks, AModelWhosePatchesAllFailServesEagerlyAndSaysSo) {
  LoadOptions options = OptionsOf(kAttention);
  options.config_json = kLlama;
  LoadContext context;
  context.fault = [](std::string_view step) -> absl::Status {
    return step == "eager" ? absl::OkStatus() : absl::UnimplementedError("no luck");
  };
  LoadReport failed, plain;
  const std::vector<float> numbers = Generated(options, context, failed);
  EXPECT_EQ(failed.attention_backend, "eager");
  EXPECT_THAT(failed.patches, IsEmpty());
  EXPECT_EQ(failed.attempts.size(), 4U);
  LoadOptions eager = PlainOptions();
  eager.config_json = options.config_json;
  ASSERT_EQ(numbers.size(), 24U);
  EXPECT_EQ(numbers, Generated(eager, {}, plain));
  EXPECT_THAT(plain.attempts, IsEmpty());
}

struct Outcome {
  LoadReport report;
  std::vector<float> numbers;
};

Outcome LoadAndRun(int mask) {
  LoadOptions options = OptionsOf(mask);
  options.config_json = kLlama;
  options.seed = static_cast<uint64_t>(mask);
  std::map<std::string, int> begun;
  Outcome outcome;
  outcome.numbers = Generated(options, ContextOf(mask, begun), outcome.report);
  return outcome;
}

TEST(Fallbacks, LoadsAtTheSameTimeWithOtherOptionsAndFallbacksDoNotTouchEachOther) {
  std::vector<Outcome> alone, together(16);
  for (int mask = 0; mask < 16; ++mask) alone.push_back(LoadAndRun(mask));
  const auto half = [&](int first) {
    for (int mask = first; mask < 16; mask += 2) together[static_cast<size_t>(mask)] = LoadAndRun(mask);
  };
  std::thread even(half, 0), odd(half, 1);
  even.join();
  odd.join();
  for (size_t mask = 0; mask < 16; ++mask) {
    SCOPED_TRACE(mask);
    ExpectAttempts(together[mask].report.attempts, ExpectedAttempts(static_cast<int>(mask)));
    EXPECT_EQ(together[mask].report.attention_backend, alone[mask].report.attention_backend);
    EXPECT_EQ(together[mask].report.patches.size(), alone[mask].report.patches.size());
    EXPECT_EQ(together[mask].report.weight_bytes, alone[mask].report.weight_bytes);
    EXPECT_EQ(together[mask].numbers, alone[mask].numbers);
  }
}

}  // namespace
}  // namespace automodeld
