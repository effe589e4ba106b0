// sdpa_method, wherever SDPA runs: what is taken, in which order, and that models keep out of each other's choice.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/auto_model.h"
#include "core/engine/engine.h"
#include "core/metrics.h"
#include "tests/engine/collecting_sink.h"
#include "tests/engine/requests.h"
#include "tests/models/tiny_model.h"

namespace automodeld {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr auto kCudnn = SdpaMethod::kCudnnAttention, kFlash = SdpaMethod::kFlashAttention,
               kEfficient = SdpaMethod::kEfficientAttention, kMath = SdpaMethod::kMath;
constexpr char kLlama[] =
    R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "vocab_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2})";
constexpr char kBert[] =
    R"({"model_type": "bert", "hidden_size": 64, "intermediate_size": 96, "vocab_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 128})";

LoadOptions Sdpa(std::vector<SdpaMethod> methods, const char* config = kLlama) {
  LoadOptions options = PlainOptions();
  options.config_json = config;
  options.attn_implementation = "sdpa";
  options.sdpa_method = std::move(methods);
  return options;
}

LoadReport Checked(LoadOptions options) {
  options.check_only = true;
  const auto loaded = AutoModel::Load(options, {});
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? loaded->report : LoadReport{};
}

TEST(SdpaMethod, TheFirstUsableOneOfTheListIsTaken) {
  const std::vector<std::pair<std::vector<SdpaMethod>, std::string>> rows = {
      {{kMath}, "sdpa:MATH"},
      {{kFlash}, "sdpa:FLASH_ATTENTION"},
      {{kMath, kFlash}, "sdpa:MATH"},
      {{kFlash, kMath}, "sdpa:FLASH_ATTENTION"},
      {{kCudnn, kMath, kFlash}, "sdpa:MATH"},  // cuDNN and EFFICIENT run on CUDA only
      {{kEfficient, kCudnn, kFlash, kMath}, "sdpa:FLASH_ATTENTION"},
      {{kEfficient, kMath, kCudnn, kFlash}, "sdpa:MATH"}};
  for (const char* config : {kLlama, kBert}) {
    for (const auto& [methods, backend] : rows) {
      const LoadReport report = Checked(Sdpa(methods, config));
      EXPECT_EQ(report.attention_backend, backend);
      EXPECT_THAT(report.attempts, IsEmpty());  // one that is passed over is no fallback
      EXPECT_THAT(report.notes, IsEmpty());
    }
  }
}

TEST(SdpaMethod, NoListIsTheDefaultOrder) {
  EXPECT_EQ(Checked(Sdpa({})).attention_backend, "sdpa:FLASH_ATTENTION");
  EXPECT_EQ(Checked(Sdpa({kCudnn, kFlash, kEfficient, kMath})).attention_backend, "sdpa:FLASH_ATTENTION");
}

TEST(SdpaMethod, AListWithoutAUsableOneFailsTheStepAtLoad) {
  for (const char* config : {kLlama, kBert}) {
    LoadOptions options = Sdpa({kEfficient, kCudnn}, config);
    const LoadReport report = Checked(options);
    EXPECT_EQ(report.attention_backend, "sdpa");  // libtorch's own choice
    ASSERT_EQ(report.attempts.size(), 1U);
    EXPECT_EQ(report.attempts[0].what, "sdpa_method=[EFFICIENT_ATTENTION, CUDNN_ATTENTION]");
    EXPECT_THAT(report.attempts[0].error, HasSubstr("sdpa:CUDNN_ATTENTION: runs on CUDA only"));
    EXPECT_EQ(report.attempts[0].fallback, "sdpa in libtorch's order");
    options.allow_fallback = false;
    EXPECT_EQ(AutoModel::Load(options, {}).status().code(), absl::StatusCode::kFailedPrecondition);
  }
}

TEST(SdpaMethod, WithoutPatchingLibtorchChooses) {
  LoadOptions options = Sdpa({});
  options.use_sdpa_patching = false;
  const LoadReport report = Checked(options);
  EXPECT_EQ(report.attention_backend, "sdpa");
  EXPECT_THAT(report.attempts, IsEmpty());
  EXPECT_THAT(report.notes, IsEmpty());
}

TEST(SdpaMethod, OneThatNothingUsesIsNoted) {
  LoadOptions options = Sdpa({kFlash});
  options.attn_implementation = "flash_attention_2";
  EXPECT_THAT(Checked(options).notes,
              testing::ElementsAre("sdpa_method=[FLASH_ATTENTION] has no effect under flash_attention_2:cpu"));
  EXPECT_THAT(Checked(options).attempts, IsEmpty());
}

// A model in service, its answers compared to the bit.
class ServedSdpa {
 public:
  ServedSdpa(const std::string& name, SdpaMethod method) {
    absl::StatusOr<LoadedModel> loaded = AutoModel::Load(Sdpa({method}), {});
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    if (!loaded.ok()) return;
    backend_ = loaded->report.attention_backend;
    engine_ =
        std::make_unique<Engine>(name, std::move(loaded->runner), nullptr, EngineOptions{}, metrics_.ForModel(name));
  }

  const std::string& backend() const { return backend_; }

  // Tokens and log probabilities of many requests at a time. They are submitted in one piece: which of them share a
  // step, and with that the last bits, then does not depend on the clock.
  std::vector<std::string> Answers() {
    std::vector<std::shared_ptr<Request>> requests = GenerateRequests(24, 5, 16);
    std::vector<std::shared_ptr<CollectingSink>> sinks;
    for (size_t i = 0; i < requests.size(); ++i) {
      requests[i]->prompt = Prompt(5 + 3 * static_cast<int>(i), static_cast<TokenId>(i));
      requests[i]->sampling.seed = i;
      requests[i]->sampling.logprobs = 4;
      requests[i]->sink = sinks.emplace_back(std::make_shared<CollectingSink>());
    }
    EXPECT_EQ(engine_->Submit(requests), absl::OkStatus());
    std::vector<std::string> answers;
    std::ranges::transform(sinks, std::back_inserter(answers),
                           [](const auto& sink) { return Bits(sink->AwaitFinish()); });
    return answers;
  }

 private:
  static std::string Bits(const Answer& answer) {
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.token_ids.size(), 16U);
    std::string bits;
    const auto append = [&](auto value) {
      char bytes[sizeof(value)];
      std::memcpy(bytes, &value, sizeof(value));
      bits.append(bytes, sizeof(value));
    };
    for (const TokenLogprob& token : answer.logprobs) {
      append(token.token_id);
      append(token.logprob);
      for (const auto& [id, logprob] : token.top) append(id), append(logprob);
    }
    return bits;
  }

  Metrics metrics_;
  std::string backend_;
  std::unique_ptr<Engine> engine_;
};

TEST(SdpaMethod, TwoModelsSideBySideUnderLoadKeepEachToItsOwn) {
  ServedSdpa math("math", kMath), flash("flash", kFlash);
  EXPECT_EQ(math.backend(), "sdpa:MATH");
  EXPECT_EQ(flash.backend(), "sdpa:FLASH_ATTENTION");
  const std::vector<std::string> math_alone = math.Answers(), flash_alone = flash.Answers();
  for (size_t i = 0; i < math_alone.size(); ++i) {
    EXPECT_NE(math_alone[i], flash_alone[i]) << "both kernels give the same bits: this test could not tell them apart";
  }
  const auto serve = [](ServedSdpa& model, const std::vector<std::string>& alone) {
    for (int round = 0; round < 8; ++round) EXPECT_EQ(model.Answers(), alone) << "round " << round;
  };
  const auto other = std::async(std::launch::async, [&] { serve(flash, flash_alone); });
  serve(math, math_alone);
  other.wait();
}

}  // namespace
}  // namespace automodeld
