#include "tests/models/tiny_model.h"

#include <memory>
#include <utility>

#include "core/models/architecture.h"

namespace automodeld {

namespace {

ModelShape ReadShape(ConfigReader& read, bool causal) {
  ModelShape shape;
  shape.hidden_size = read.Int("hidden_size", 16, 1, 1 << 20);
  shape.num_layers = read.Int("num_hidden_layers", 2, 1, 1024);
  shape.num_heads = read.Int("num_attention_heads", 2, 1, 64);
  shape.num_kv_heads = shape.num_heads;
  shape.head_dim = shape.hidden_size / shape.num_heads;
  shape.vocab_size = read.Int("vocab_size", 24, 1, 1 << 24);
  shape.max_positions = read.Int("max_position_embeddings", 64, 1, 1 << 24);
  shape.initializer_range = read.Double("initializer_range", 0.02, 0, 1);
  shape.causal = causal;
  return shape;
}

class Tiny final : public Model {
 public:
  Tiny(const ModelShape& shape, const Weights& w, bool tied) {
    const int64_t hidden = shape.hidden_size;
    Keep("model.embed_tokens.weight", (w / "model").Get("embed_tokens.weight", {shape.vocab_size, hidden}));
    Keep("model.norm.weight", (w / "model" / "norm").Get("weight", {hidden}));
    for (int64_t i = 0; i < shape.num_layers; ++i) {
      const std::string name = "layers." + std::to_string(i);
      const Weights layer = w / "model" / "layers" / std::to_string(i);
      Keep(name + ".qk", layer.Matrix({"q", "k"}, {hidden, hidden / 2}, hidden));
      Keep(name + ".qk.bias", layer.Fused({"q.bias", "k.bias"}, {hidden, hidden / 2}));
    }
    const at::Tensor& embedding = tensors_["model.embed_tokens.weight"];
    Keep("lm_head", tied ? (w / "lm_head").Tied(embedding) : (w / "lm_head").Matrix({""}, {shape.vocab_size}, hidden));
    if (w.options().device().is_meta()) return;
    LastTiny() = std::move(tensors_);
  }

  at::Tensor Forward(const Inputs& in) const override { return at::zeros({in.token_ids.size(0), 16}); }
  at::Tensor Logits(const at::Tensor& rows) const override { return rows; }

 private:
  void Keep(const std::string& name, at::Tensor tensor) { tensors_[name] = std::move(tensor); }

  // A linear: its weight, and its scale where it is in FP8.
  void Keep(const std::string& name, const LinearWeight& weight) {
    if (const auto* fp8 = std::get_if<Fp8Weight>(&weight)) {
      tensors_[name + ".weight"] = fp8->values;
      tensors_[name + ".scale"] = fp8->scale;
    } else {
      const at::Tensor& plain = std::get<at::Tensor>(weight);  // in panels [out / 32, in, 32] where it is packed
      tensors_[name + ".weight"] = plain.dim() == 2 ? plain : plain.transpose(1, 2).reshape({-1, plain.size(1)});
    }
  }

  std::map<std::string, at::Tensor> tensors_;
};

Architecture Row(const std::string& name, const std::string& model_type, std::vector<AutoClass> classes, bool causal) {
  return {.name = name,
          .model_type = model_type,
          .classes = std::move(classes),
          .describe = [causal](const Config& config) -> absl::StatusOr<ModelShape> {
            ConfigReader read(config);
            ModelShape shape = ReadShape(read, causal);
            if (absl::Status status = read.status(); !status.ok()) return status;
            return shape;
          },
          .make = [causal](const Config& config, const Weights& w, const Ops&) -> std::unique_ptr<Model> {
            ConfigReader read(config);
            return std::make_unique<Tiny>(ReadShape(read, causal), w, read.Bool("tie_word_embeddings", false));
          },
          .ops = {"sample"},
          .base_prefix = "model.",
          .tied = {.copy = "lm_head.weight", .original = "model.embed_tokens.weight"},
          .ignorable = {"rotary_emb.inv_freq"}};
}

const bool kRegistered = RegisterArchitectures({
    Row("TinyForTest", "tiny", {AutoClass::kCausalLM, AutoClass::kEmbedding}, true),
    Row("TinyForEveryClassTest", "tiny-every",
        {AutoClass::kCausalLM, AutoClass::kImageTextToText, AutoClass::kEmbedding}, true),
    Row("TinyEncoderForTest", "tiny-encoder", {AutoClass::kEmbedding}, false),
});

TestTensor Numbered(const std::string& name, const std::vector<int64_t>& shape, float own) {
  std::vector<float> values(static_cast<size_t>(c10::multiply_integers(shape)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 64) / 8.0F + own;
  return {name, "F32", shape, FloatBytes(values)};
}

}  // namespace

std::map<std::string, at::Tensor>& LastTiny() {
  static std::map<std::string, at::Tensor> tensors;
  return tensors;
}

std::string TinyConfig(int64_t hidden, const std::string& architecture) {
  nlohmann::json config = nlohmann::json::parse(kTinyConfig);
  config["hidden_size"] = hidden;
  config["architectures"] = {architecture};
  return config.dump();
}

std::vector<TestTensor> TinyTensors(int64_t hidden) {
  std::vector<TestTensor> tensors = {Numbered("model.embed_tokens.weight", {24, hidden}, 0),
                                     Numbered("model.norm.weight", {hidden}, 1),
                                     Numbered("lm_head.weight", {24, hidden}, 2)};
  for (const std::string& layer : {std::string("model.layers.0."), std::string("model.layers.1.")}) {
    tensors.push_back(Numbered(layer + "q.weight", {hidden, hidden}, 3));
    tensors.push_back(Numbered(layer + "k.weight", {hidden / 2, hidden}, 4));
    tensors.push_back(Numbered(layer + "q.bias", {hidden}, 5));
    tensors.push_back(Numbered(layer + "k.bias", {hidden / 2}, 6));
  }
  return tensors;
}

TestTensor Converted(const TestTensor& tensor, const std::string& dtype) {
  const std::map<std::string, at::ScalarType> types = {
      {"F64", at::kDouble}, {"F32", at::kFloat}, {"F16", at::kHalf}, {"BF16", at::kBFloat16}};
  std::string bytes = tensor.bytes;
  const at::Tensor values = at::from_blob(bytes.data(), {static_cast<int64_t>(bytes.size() / 4)}, at::kFloat);
  const at::Tensor converted = values.to(types.at(dtype)).contiguous();
  return {tensor.name, dtype, tensor.shape,
          std::string(static_cast<const char*>(converted.data_ptr()), converted.nbytes())};
}

void WriteTiny(const CheckpointFolder& folder) {
  folder.Write("config.json", kTinyConfig);
  folder.WriteTensors("model.safetensors", TinyTensors());
}

void WriteTiny(const CheckpointFolder& folder, int64_t hidden, const std::string& architecture) {
  folder.Write("config.json", TinyConfig(hidden, architecture));
  folder.WriteTensors("model.safetensors", TinyTensors(hidden));
}

LoadOptions PlainOptions(const std::string& path) {
  LoadOptions options;
  options.model = "tiny";
  options.path = path;
  options.device = "cpu";
  options.attn_implementation = "eager";
  options.use_liger_kernel = false;
  return options;
}

}  // namespace automodeld
