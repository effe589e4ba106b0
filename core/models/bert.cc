// BERT: a post-norm encoder with learned positions. Follows transformers' modeling_bert (BertModel without the pooler);
// sentence-transformers' checkpoints such as all-MiniLM-L6-v2 are of this architecture.
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "core/layers/inputs.h"
#include "core/layers/linear.h"
#include "core/layers/mlp.h"
#include "core/layers/norm.h"
#include "core/models/architecture.h"

namespace automodeld {

namespace {

struct BertConfig {
  ModelShape shape;
  int64_t intermediate_size = 0;
  int64_t type_vocab_size = 0;
  std::string activation;
  double eps = 1e-12;
};

void CheckVariant(ConfigReader& read, const BertConfig& c, const std::string& act) {
  if (c.shape.hidden_size % c.shape.num_heads != 0) {
    read.Fail("num_attention_heads",
              fmt::format("{} does not divide hidden_size {}", c.shape.num_heads, c.shape.hidden_size));
  }
  if (c.activation.empty()) {
    read.Fail("hidden_act", fmt::format("\"{}\" is not one of gelu, gelu_new, gelu_pytorch_tanh, relu, silu", act));
  }
  const std::string positions = read.String("position_embedding_type", "absolute");
  if (positions != "absolute") {
    read.Fail("position_embedding_type", fmt::format("\"{}\" is not \"absolute\"", positions));
  }
  if (read.Bool("is_decoder", false))
    read.Fail("is_decoder", "true is not supported: BertModel is served as an encoder");
}

absl::StatusOr<BertConfig> ReadBert(const Config& config) {
  ConfigReader read(config);
  BertConfig c;
  c.shape.hidden_size = read.Int("hidden_size", 768, 1, 1 << 20);
  c.shape.num_layers = read.Int("num_hidden_layers", 12, 1, 1024);
  c.shape.num_heads = read.Int("num_attention_heads", 12, 1, 4096);
  c.shape.num_kv_heads = c.shape.num_heads;
  c.shape.head_dim = c.shape.hidden_size / c.shape.num_heads;
  c.shape.vocab_size = read.Int("vocab_size", 30522, 1, 1 << 24);
  c.shape.max_positions = read.Int("max_position_embeddings", 512, 1, 1 << 24);
  c.shape.initializer_range = read.Double("initializer_range", 0.02, 0.0, 1.0);
  c.shape.causal = false;
  c.intermediate_size = read.Int("intermediate_size", 3072, 1, 1 << 20);
  c.type_vocab_size = read.Int("type_vocab_size", 2, 1, 1 << 16);
  c.eps = read.Double("layer_norm_eps", 1e-12, 0.0, 1.0);
  const std::string act = read.String("hidden_act", "gelu");
  c.activation = ActivationName(act);
  CheckVariant(read, c, act);
  if (absl::Status status = read.status(); !status.ok()) return status;
  return c;
}

class Embeddings {
 public:
  Embeddings(const BertConfig& c, const Weights& w, const Ops& ops)
      : words_(w.Get("word_embeddings.weight", {c.shape.vocab_size, c.shape.hidden_size})),
        positions_(w.Get("position_embeddings.weight", {c.shape.max_positions, c.shape.hidden_size})),
        types_(w.Get("token_type_embeddings.weight", {c.type_vocab_size, c.shape.hidden_size})),
        norm_(w / "LayerNorm", c.shape.hidden_size, c.eps, ops) {}

  at::Tensor Forward(const Inputs& in) const {  // every token is of type 0
    const at::Tensor words = at::embedding(words_, in.token_ids) + types_[0];
    return norm_(words, at::embedding(positions_, in.positions));
  }

 private:
  at::Tensor words_;
  at::Tensor positions_;
  at::Tensor types_;
  LayerNorm norm_;
};

AttentionLayer LayerShape(const BertConfig& c, int64_t index) {
  return {.index = index,
          .num_heads = c.shape.num_heads,
          .num_kv_heads = c.shape.num_kv_heads,
          .head_dim = c.shape.head_dim,
          .scale = 1.0 / std::sqrt(static_cast<double>(c.shape.head_dim)),
          .causal = false};
}

class Layer {
 public:
  Layer(const BertConfig& c, int64_t index, const Weights& w, const Ops& ops)
      : shape_(LayerShape(c, index)),
        activation_(c.activation),
        qkv_(w / "attention" / "self", {"query", "key", "value"}, std::vector<int64_t>(3, c.shape.hidden_size),
             c.shape.hidden_size, /*bias=*/true),
        attention_output_(w / "attention" / "output" / "dense",
                          {.out = c.shape.hidden_size, .in = c.shape.hidden_size, .bias = true}),
        attention_norm_(w / "attention" / "output" / "LayerNorm", c.shape.hidden_size, c.eps, ops),
        intermediate_(w / "intermediate" / "dense",
                      {.out = c.intermediate_size, .in = c.shape.hidden_size, .bias = true}),
        output_(w / "output" / "dense", {.out = c.shape.hidden_size, .in = c.intermediate_size, .bias = true}),
        output_norm_(w / "output" / "LayerNorm", c.shape.hidden_size, c.eps, ops),
        ops_(&ops) {
    shape_.quantize = attention_output_.quantizes();
  }

  at::Tensor Forward(const at::Tensor& x, const Inputs& in) const {  // [tokens, hidden]
    auto [q, k, v] =
        ops_->qkv_rope_write_kv(qkv_(x), shape_.num_heads, shape_.num_kv_heads, std::nullopt, std::nullopt, 0.0,
                                std::nullopt, in.positions, std::nullopt, std::nullopt, std::nullopt, 1.0, 1.0);
    const LinearInput attended = in.attention->Run(shape_, q, k, v, nullptr);
    const at::Tensor y = attention_norm_(attention_output_(attended), x);
    return output_norm_(output_(intermediate_(y, activation_)), y);
  }

 private:
  AttentionLayer shape_;
  std::string activation_;
  Linear qkv_;
  Linear attention_output_;
  LayerNorm attention_norm_;
  Linear intermediate_;
  Linear output_;
  LayerNorm output_norm_;
  const Ops* ops_;
};

class Bert final : public Model {
 public:
  Bert(const BertConfig& c, const Weights& root, const Ops& ops)
      : ops_(ops), embeddings_(c, root / "embeddings", ops_) {
    for (int64_t i = 0; i < c.shape.num_layers; ++i) {
      layers_.emplace_back(c, i, root / "encoder" / "layer" / std::to_string(i), ops_);
    }
  }

  at::Tensor Forward(const Inputs& in) const override {
    at::Tensor x = embeddings_.Forward(in);
    for (const Layer& layer : layers_) x = layer.Forward(x, in);
    return x;
  }

  at::Tensor Logits(const at::Tensor& rows) const override { return rows; }  // no head; never asked

 private:
  Ops ops_;
  Embeddings embeddings_;
  std::vector<Layer> layers_;
};

const bool kRegistered = RegisterArchitectures({
    {.name = "BertModel",
     .model_type = "bert",
     .classes = {AutoClass::kEmbedding},
     .describe = [](const Config& config) -> absl::StatusOr<ModelShape> {
       auto bert = ReadBert(config);
       if (!bert.ok()) return bert.status();
       return bert->shape;
     },
     .make = [](const Config& config, const Weights& w, const Ops& ops) -> std::unique_ptr<Model> {
       return std::make_unique<Bert>(ReadBert(config).value(), w, ops);
     },
     .ops = {"layer_norm", "qkv_rope_write_kv", "pool_rows"},
     .base_prefix = "bert.",
     .ignorable = {"embeddings.position_ids", "pooler."}},
});

}  // namespace

}  // namespace automodeld
