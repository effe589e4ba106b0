// A whole model whose KV cache grows while it answers, on every device.
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/auto_model.h"
#include "core/device_memory_torch.h"
#include "core/engine/engine.h"
#include "tests/await_that.h"
#include "tests/engine/collecting_sink.h"
#include "tests/engine/requests.h"
#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

constexpr int kRequests = 32, kPromptTokens = 100, kNewTokens = 12;

// Little to compute, and 512 KiB a page: a slab holds the pages of 8 requests.
LoadOptions WideCache(at::Device device) {
  const nlohmann::json config = {{"architectures", {"LlamaForCausalLM"}},
                                 {"model_type", "llama"},
                                 {"vocab_size", 500},
                                 {"hidden_size", 64},
                                 {"intermediate_size", 128},
                                 {"num_hidden_layers", 4},
                                 {"num_attention_heads", 8},
                                 {"head_dim", 128},
                                 {"max_position_embeddings", 128}};
  LoadOptions options;
  options.model = "wide";
  options.config_json = config.dump();
  options.torch_dtype = "float32";
  options.device = device.is_cpu() ? "cpu" : "cuda:0";
  options.engine = {.max_num_seqs = kRequests};
  return options;
}

std::vector<std::vector<TokenId>> Answers(Engine& engine, int first, int count) {
  std::vector<std::shared_ptr<Request>> requests;
  for (int i = first; i < first + count; ++i) {
    requests.push_back(GenerateRequest(std::to_string(i), kPromptTokens, kNewTokens));
    requests.back()->prompt = Prompt(kPromptTokens, i);
    requests.back()->sampling.temperature = 0;
    requests.back()->sink = std::make_shared<CollectingSink>();
  }
  EXPECT_EQ(engine.Submit(requests), absl::OkStatus());
  std::vector<std::vector<TokenId>> answers;
  for (const auto& request : requests) {
    const Answer answer = static_cast<CollectingSink&>(*request->sink).AwaitFinish();
    EXPECT_EQ(answer.status, absl::OkStatus());
    answers.push_back(answer.token_ids);
  }
  return answers;
}

TEST(KvGrowth, AnswersAreTheSameWhileTheCacheGrowsAndItsMemoryGoesAgain) {
  for (const at::Device device : Devices()) {
    SCOPED_TRACE(device.str());
    KvArena* arena = DeviceMemory::Of(device).arena();
    ASSERT_NE(arena, nullptr);
    const int64_t before = arena->mapped_bytes();
    auto loaded = AutoModel::Load(WideCache(device), {});
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    Metrics metrics;
    Engine engine("wide", std::move(loaded->runner), nullptr, {}, metrics.ForModel("wide"));
    EXPECT_LE(arena->mapped_bytes() - before, 32 << 20);
    std::vector<std::vector<TokenId>> alone;
    alone.reserve(kRequests);
    for (int i = 0; i < kRequests; ++i) alone.push_back(Answers(engine, i, 1).front());
    EXPECT_LE(arena->mapped_bytes() - before, 32 << 20);
    const std::vector<std::vector<TokenId>> together = Answers(engine, 0, kRequests);
    const int64_t wanted = before + kRequests * (7 << 19);
    // Small requests may all have had their turn before the memory that they asked for is there.
    AwaitThat([&] { return arena->mapped_bytes() >= wanted; });
    EXPECT_GE(arena->mapped_bytes(), wanted);
    int num_equal = 0;
    for (int i = 0; i < kRequests; ++i) {
      EXPECT_EQ(together[static_cast<size_t>(i)].size(), kNewTokens);
      num_equal += together[static_cast<size_t>(i)] == alone[static_cast<size_t>(i)] ? 1 : 0;
    }
    // A GPU's sums depend on the batch, and now and then two logits are equal but for that.
    EXPECT_GE(num_equal, device.is_cpu() ? kRequests : kRequests * 3 / 4);
    engine.Shutdown();
    EXPECT_EQ(arena->mapped_bytes(), before);
  }
}

}  // namespace
}  // namespace automodeld
