// The Llama family: pre-norm decoders with RoPE, grouped-query attention and a gated MLP.
// Follows transformers' modeling_llama, modeling_mistral, modeling_qwen2 and modeling_qwen3; members differ by row.
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/layers/attention.h"
#include "core/layers/inputs.h"
#include "core/layers/linear.h"
#include "core/layers/mlp.h"
#include "core/layers/norm.h"
#include "core/layers/rope.h"
#include "core/models/architecture.h"

namespace automodeld {

namespace {

enum class Bias { kNone, kQkv, kConfig };          // kConfig: attention_bias, on all four projections
enum class Window { kNone, kEveryLayer, kUpper };  // kUpper: use_sliding_window, from max_window_layers on

// What a member of the family has that the others have not; numbers are its configuration class's defaults.
struct Traits {
  Bias bias = Bias::kNone;
  bool mlp_bias = false;  // reads mlp_bias
  bool qk_norm = false;
  Window window = Window::kNone;
  int64_t intermediate_size = 11008;
  int64_t vocab_size = 32000;
  int64_t num_kv_heads = 0;  // 0: num_attention_heads
  int64_t head_dim = 0;      // 0: hidden_size / num_attention_heads
  int64_t max_positions = 2048;
};

struct DecoderConfig {
  ModelShape shape;
  std::string activation;
  double eps = 1e-6;
  bool qkv_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;
  bool tied = false;
  RopeConfig rope;
};

constexpr int64_t kMaxDim = 1 << 20;
constexpr int64_t kMaxHeadDim = 1024;

std::vector<int64_t> ReadWindows(ConfigReader& read, Window kind, int64_t num_layers) {
  if (kind == Window::kNone) return {};
  if (kind == Window::kUpper && !read.Bool("use_sliding_window", false)) return {};
  const bool voided = read.Null("sliding_window") || !read.Bool("use_sliding_window", true);
  const int64_t window = voided ? 0 : read.Int("sliding_window", 4096, 1, 1 << 30);
  if (window == 0) return {};
  std::vector<int64_t> windows(static_cast<size_t>(num_layers), window);
  if (kind == Window::kEveryLayer) return windows;
  const int64_t first = read.Int("max_window_layers", 28, 0, 1 << 20);
  const std::vector<std::string> types = read.Strings("layer_types");
  for (size_t i = 0; i < windows.size(); ++i) {
    const bool sliding = i < types.size() ? types[i] == "sliding_attention" : static_cast<int64_t>(i) >= first;
    if (!sliding) windows[i] = 0;
    if (i >= types.size() || sliding || types[i] == "full_attention") continue;
    read.Fail("layer_types", fmt::format("\"{}\" is not one of full_attention, sliding_attention", types[i]));
  }
  return windows;
}

int64_t ReadHeadDim(ConfigReader& read, const Traits& traits, const ModelShape& shape) {
  if (read.Has("head_dim")) return read.Int("head_dim", 2, 2, kMaxHeadDim);
  if (traits.head_dim > 0 && !read.Null("head_dim")) return traits.head_dim;
  const int64_t head_dim = shape.hidden_size / shape.num_heads;
  if (shape.hidden_size % shape.num_heads != 0) {
    read.Fail("num_attention_heads",
              fmt::format("{} does not divide hidden_size {}", shape.num_heads, shape.hidden_size));
  } else if (head_dim > kMaxHeadDim) {
    read.Fail("hidden_size",
              fmt::format("{} gives heads of {}, more than {}", shape.hidden_size, head_dim, kMaxHeadDim));
  }
  return head_dim;
}

void ReadShape(ConfigReader& read, const Traits& traits, ModelShape& shape) {
  shape.hidden_size = read.Int("hidden_size", 4096, 1, kMaxDim);
  shape.num_layers = read.Int("num_hidden_layers", 32, 1, 1024);
  shape.num_heads = read.Int("num_attention_heads", 32, 1, 4096);
  const bool as_heads = traits.num_kv_heads == 0 || read.Null("num_key_value_heads");
  shape.num_kv_heads = read.Int("num_key_value_heads", as_heads ? shape.num_heads : traits.num_kv_heads, 1, 4096);
  shape.head_dim = ReadHeadDim(read, traits, shape);
  shape.vocab_size = read.Int("vocab_size", traits.vocab_size, 1, 1 << 24);
  shape.max_positions = read.Int("max_position_embeddings", traits.max_positions, 1, 1 << 24);
  shape.initializer_range = read.Double("initializer_range", 0.02, 0.0, 1.0);
  if (shape.num_heads % shape.num_kv_heads != 0) {
    read.Fail("num_key_value_heads",
              fmt::format("{} does not divide num_attention_heads {}", shape.num_kv_heads, shape.num_heads));
  }
  if (shape.head_dim % 2 != 0) read.Fail("head_dim", fmt::format("{} is odd", shape.head_dim));
}

absl::StatusOr<DecoderConfig> ReadDecoder(const Config& config, const Traits& traits) {
  ConfigReader read(config);
  DecoderConfig c;
  ReadShape(read, traits, c.shape);
  c.shape.windows = ReadWindows(read, traits.window, c.shape.num_layers);
  c.shape.intermediate_size = read.Int("intermediate_size", traits.intermediate_size, 1, kMaxDim);
  c.eps = read.Double("rms_norm_eps", 1e-6, 0.0, 1.0);
  c.tied = read.Bool("tie_word_embeddings", false);
  const bool bias = traits.bias == Bias::kConfig && read.Bool("attention_bias", false);
  c.qkv_bias = bias || traits.bias == Bias::kQkv;
  c.output_bias = bias;
  c.mlp_bias = traits.mlp_bias && read.Bool("mlp_bias", false);
  c.qk_norm = traits.qk_norm;
  c.rope = ReadRope(read, c.shape.head_dim, c.shape.max_positions);
  const std::string act = read.String("hidden_act", "silu");
  c.activation = ActivationName(act);
  if (c.activation.empty() || c.activation == "relu") {
    read.Fail("hidden_act", fmt::format("\"{}\" is not one of silu, gelu, gelu_new, gelu_pytorch_tanh", act));
  }
  if (absl::Status status = read.status(); !status.ok()) return status;
  return c;
}

SelfAttentionOptions AttentionOptions(const DecoderConfig& c, int64_t index) {
  const ModelShape& s = c.shape;
  return {.layer = {.index = index,
                    .num_heads = s.num_heads,
                    .num_kv_heads = s.num_kv_heads,
                    .head_dim = s.head_dim,
                    .scale = 1.0 / std::sqrt(static_cast<double>(s.head_dim)),
                    .window = s.windows.empty() ? 0 : s.windows[static_cast<size_t>(index)]},
          .hidden_size = s.hidden_size,
          .qkv_bias = c.qkv_bias,
          .output_bias = c.output_bias,
          .qk_norm = c.qk_norm,
          .eps = c.eps};
}

class Layer {
 public:
  Layer(const DecoderConfig& c, int64_t index, const Weights& w, const at::Tensor& cos_sin, const Ops& ops)
      : input_norm_(w / "input_layernorm", c.shape.hidden_size, c.eps, ops),
        attention_(w / "self_attn", AttentionOptions(c, index), cos_sin, ops),
        post_attention_norm_(w / "post_attention_layernorm", c.shape.hidden_size, c.eps, ops),
        mlp_(w / "mlp",
             {.hidden_size = c.shape.hidden_size,
              .intermediate_size = c.shape.intermediate_size,
              .activation = c.activation,
              .bias = c.mlp_bias},
             ops) {}

  void Forward(Activation& x, const Inputs& in) const {
    x.hidden = attention_.Forward(input_norm_(x, attention_.quantizes()), in);
    x.hidden = mlp_.Forward(post_attention_norm_(x, mlp_.quantizes()));
  }

 private:
  RmsNorm input_norm_;
  SelfAttention attention_;
  RmsNorm post_attention_norm_;
  GatedMlp mlp_;
};

class Decoder final : public Model {
 public:
  Decoder(const DecoderConfig& c, const Weights& root, const Ops& ops)
      : ops_(ops),
        embed_tokens_((root / "model").Get("embed_tokens.weight", {c.shape.vocab_size, c.shape.hidden_size})),
        norm_(root / "model" / "norm", c.shape.hidden_size, c.eps, ops_),
        lm_head_(c.tied ? Linear(root / "lm_head", embed_tokens_)
                        : Linear(root / "lm_head", {.out = c.shape.vocab_size, .in = c.shape.hidden_size})) {
    const at::Tensor cos_sin = RopeTable(c.rope, root.options().device());
    for (int64_t i = 0; i < c.shape.num_layers; ++i) {
      layers_.emplace_back(c, i, root / "model" / "layers" / std::to_string(i), cos_sin, ops_);
    }
  }

  at::Tensor Forward(const Inputs& in) const override {
    Activation x{.hidden = ops_.embed_tokens(in.token_ids, in.last_tokens, embed_tokens_, 1.0), .residual = {}};
    for (const Layer& layer : layers_) layer.Forward(x, in);
    return norm_(x).values;
  }

  at::Tensor Logits(const at::Tensor& rows) const override { return lm_head_(rows); }

 private:
  Ops ops_;
  at::Tensor embed_tokens_;  // [vocab, hidden]
  std::vector<Layer> layers_;
  RmsNorm norm_;
  Linear lm_head_;
};

Architecture Row(const std::string& name, const std::string& model_type, const Traits& traits) {
  return {.name = name,
          .model_type = model_type,
          .classes = {AutoClass::kCausalLM, AutoClass::kEmbedding},
          .describe = [traits](const Config& config) -> absl::StatusOr<ModelShape> {
            auto decoder = ReadDecoder(config, traits);
            if (!decoder.ok()) return decoder.status();
            return decoder->shape;
          },
          .make = [traits](const Config& config, const Weights& w, const Ops& ops) -> std::unique_ptr<Model> {
            return std::make_unique<Decoder>(ReadDecoder(config, traits).value(), w, ops);
          },
          .ops = {"embed_tokens", "rms_norm", "qkv_rope_write_kv", "act_mul", "adjust_logits", "count_tokens", "sample",
                  "pool_rows"},
          .base_prefix = "model.",
          .tied = {.copy = "lm_head.weight", .original = "model.embed_tokens.weight"},
          .ignorable = {"rotary_emb.inv_freq"}};
}

const bool kRegistered = RegisterArchitectures({
    Row("LlamaForCausalLM", "llama", {.bias = Bias::kConfig, .mlp_bias = true}),
    Row("MistralForCausalLM", "mistral",
        {.window = Window::kEveryLayer, .intermediate_size = 14336, .num_kv_heads = 8, .max_positions = 131072}),
    Row("Qwen2ForCausalLM", "qwen2",
        {.bias = Bias::kQkv,
         .window = Window::kUpper,
         .intermediate_size = 22016,
         .vocab_size = 151936,
         .num_kv_heads = 32,
         .max_positions = 32768}),
    Row("Qwen3ForCausalLM", "qwen3",
        {.bias = Bias::kConfig,
         .qk_norm = true,
         .window = Window::kUpper,
         .intermediate_size = 22016,
         .vocab_size = 151936,
         .num_kv_heads = 32,
         .head_dim = 128,
         .max_positions = 32768}),
});

}  // namespace

}  // namespace automodeld
