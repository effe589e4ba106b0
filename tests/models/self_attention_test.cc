// Where decode rows are normed, rotated and cached: inside attention if that takes raw rows, else by the operation.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/auto_model.h"
#include "core/layers/attention.h"
#include "core/load_meter.h"
#include "core/weight_sources_torch.h"
#include "tests/models/tiny_model.h"

namespace automodeld {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Writes down what it is asked for; its results are zeros.
class FakeAttention final : public AttentionBackend {
 public:
  const std::string& name() const override { return name_; }
  void Plan(const AttentionStep&) override {}
  LinearInput Run(const AttentionLayer&, const at::Tensor& q, const at::Tensor&, const at::Tensor&,
                  const KvCache*) override {
    calls.emplace_back("Run");
    return at::zeros({q.size(0), q.size(1) * q.size(2)}, q.options());
  }
  std::optional<LinearInput> RunRaw(const AttentionLayer& layer, const RawQkv& raw, const KvCache&) override {
    calls.push_back("RunRaw " + raw.version);
    raw_columns = raw.qkv.size(1);
    if (!takes_raw) return std::nullopt;
    return at::zeros({raw.qkv.size(0), layer.num_heads * layer.head_dim}, raw.qkv.options());
  }

  bool takes_raw = false;
  int64_t raw_columns = 0;
  std::vector<std::string> calls;

 private:
  const std::string name_ = "fake";
};

struct AttentionStepTest : testing::Test {
  static constexpr int64_t kHeads = 4, kKvHeads = 2, kHeadDim = 16, kHidden = 32;

  AttentionStepTest() {
    ops.qkv_rope_write_kv.version = "mycorp::rope";
    ops.qkv_rope_write_kv.function = [this, eager = EagerOps().qkv_rope_write_kv.function](const auto&... arguments) {
      attention.calls.emplace_back("operation");
      return eager(arguments...);
    };
  }

  void Forward(KvCache* kv) {
    const LoadContext context{};  // which the meter refers to
    LoadMeter meter{context};
    RandomSource source(/*seed=*/1, /*range=*/0.02, &meter);
    const at::TensorOptions options(at::kFloat);
    const SelfAttention layer(
        Weights(&source, options),
        {.layer = {.num_heads = kHeads, .num_kv_heads = kKvHeads, .head_dim = kHeadDim}, .hidden_size = kHidden},
        at::rand({8, 2, kHeadDim / 2}), ops);
    Inputs in;
    in.positions = in.kv_slots = at::arange(3, at::kLong);
    in.kv = kv;
    in.attention = &attention;
    EXPECT_EQ(layer.Forward(at::rand({3, kHidden}), in).sizes(), at::IntArrayRef({3, kHidden}));
  }

  Ops ops = EagerOps();
  FakeAttention attention;
  KvCache cache{2, 1, 16, kKvHeads, kHeadDim, at::TensorOptions(at::kFloat)};
};

TEST_F(AttentionStepTest, RawRowsGoToAttentionWhereItTakesThem) {
  attention.takes_raw = true;
  Forward(&cache);
  EXPECT_THAT(attention.calls, ElementsAre("RunRaw mycorp::rope"));
  EXPECT_EQ(attention.raw_columns, (kHeads + 2 * kKvHeads) * kHeadDim);
}

TEST_F(AttentionStepTest, RawRowsThatAttentionDoesNotTakeGoThroughTheOperation) {
  Forward(&cache);
  EXPECT_THAT(attention.calls, ElementsAre("RunRaw mycorp::rope", "operation", "Run"));
}

TEST_F(AttentionStepTest, RowsWithoutACacheGoThroughTheOperation) {
  attention.takes_raw = true;
  Forward(nullptr);
  EXPECT_THAT(attention.calls, ElementsAre("operation", "Run"));
}

// The report says so where a GPU's own kernels are in force, and only there.
TEST(DecodeAttentionOps, AreReportedWhereAttentionDoesThem) {
  LoadOptions options = PlainOptions();
  options.config_json = R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 48, "vocab_size": 64,
                            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                            "max_position_embeddings": 64})";
  options.torch_dtype = "bfloat16";
  options.device = "auto";
  options.attn_implementation = "flash_attention_2";
  options.use_liger_kernel = true;
  options.check_only = true;
  const auto ops = [&] {
    auto loaded = AutoModel::Load(options, {});
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded.ok() ? loaded->report.decode_attention_ops : std::vector<std::string>{"no load"};
  };
  if (at::hasCUDA()) {
    EXPECT_THAT(ops(), ElementsAre("qkv_rope_write_kv"));
  } else {
    EXPECT_THAT(ops(), IsEmpty());
  }
  options.attn_implementation = "sdpa";
  EXPECT_THAT(ops(), IsEmpty());
  options.attn_implementation = "flash_attention_2";
  options.use_liger_kernel = false;
  EXPECT_THAT(ops(), IsEmpty());
}

}  // namespace
}  // namespace automodeld
