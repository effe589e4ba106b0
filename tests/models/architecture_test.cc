// What the rows of the registry say of their models.
#include "core/models/architecture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "core/engine/model_runner.h"
#include "core/load_meter.h"
#include "core/weight_sources_torch.h"
#include "kernels/attention.h"

namespace automodeld {
namespace {

constexpr char kSmall[] = R"({"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 32, "vocab_size": 40,
    "max_position_embeddings": 64})";

// Writes down each operation that is called.
template <typename Signature>
void Record(Op<Signature>& op, std::set<std::string>& called) {
  op.function = [name = op.name, function = op.function, &called](auto&&... args) {
    called.insert(name);
    return function(std::forward<decltype(args)>(args)...);
  };
}

Ops RecordingOps(std::set<std::string>& called) {
  Ops ops = EagerOps();
  Record(ops.embed_tokens, called);
  Record(ops.rms_norm, called);
  Record(ops.layer_norm, called);
  Record(ops.qkv_rope_write_kv, called);
  Record(ops.act_mul, called);
  Record(ops.adjust_logits, called);
  Record(ops.count_tokens, called);
  Record(ops.sample, called);
  Record(ops.pool_rows, called);
  return ops;
}

std::unique_ptr<Runner> MakeRunner(const Architecture& row, const Ops& ops) {
  const Config config = Config::Parse(kSmall, "config_json").value();
  const LoadContext context{};  // which the meter refers to
  LoadMeter meter{context};
  RandomSource source(/*seed=*/1, /*range=*/0.02, &meter);
  ModelRunnerParts parts;
  parts.options = at::TensorOptions(at::kFloat);
  parts.kv_options = parts.options;
  parts.shape = row.describe(config).value();
  parts.model = row.make(config, Weights(&source, parts.options), ops);
  parts.ops = ops;
  parts.attention = MakeAttention("eager",
                                  {.num_heads = parts.shape.num_heads,
                                   .num_kv_heads = parts.shape.num_kv_heads,
                                   .head_dim = parts.shape.head_dim,
                                   .causal = parts.shape.causal},
                                  {})
                        .value();
  parts.limits = {.max_model_len = 64,
                  .max_num_seqs = 1,
                  .max_num_batched_tokens = 64,
                  .num_pages = parts.shape.causal ? 2 : 0,
                  .ragged = !parts.shape.causal};
  Fallbacks fallbacks(/*allowed=*/false);
  std::vector<std::string> notes;
  return MakeModelRunner(std::move(parts), fallbacks, notes).value();
}

// One step with one whole prompt, with every kind of operation that a request can ask for.
absl::Status RunPrompt(Runner& runner, Request::Kind kind) {
  Request request;
  request.prompt = {1, 2, 3};
  request.kind = kind;
  request.sampling.presence_penalty = 1.0F;
  const std::vector<PageId> pages = {1};
  BatchItem item;
  item.request = &request;
  item.first = item.last = true;
  item.num_tokens = 3;
  item.token_ids = item.context = request.prompt;
  if (!runner.limits().ragged) item.pages = pages;
  Batch batch;
  (runner.limits().ragged ? batch.ragged : batch.prefill).push_back(item);
  auto step = runner.Launch(batch);
  return step.ok() ? (*step)->Wait().status() : step.status();
}

TEST(Architecture, RowsNameTheOperationsThatTheirModelsCall) {
  for (const std::string& name : ArchitectureNames()) {
    if (name.starts_with("Tiny")) continue;  // the tests' own, whose Forward gives nothing
    SCOPED_TRACE(name);
    const Architecture& row = *FindArchitecture(name);
    std::set<std::string> called;
    const auto runner = MakeRunner(row, RecordingOps(called));
    EXPECT_TRUE(RunPrompt(*runner, Request::Kind::kEmbed).ok());
    EXPECT_TRUE(runner->limits().ragged || RunPrompt(*runner, Request::Kind::kGenerate).ok());
    EXPECT_THAT(called, testing::UnorderedElementsAreArray(row.ops));
  }
}

}  // namespace
}  // namespace automodeld
