#include "tests/service/fake_loader.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "core/status.h"

namespace automodeld {
namespace {

// The character that stands for a byte in byte-level vocabularies, as GPT-2's bytes_to_unicode.
std::string ByteCharacter(int byte) {
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

nlohmann::json SpecialToken(int id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

std::string TokenizerJson() {
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[ByteCharacter(byte)] = byte;
  vocab["<s>"] = 256;
  vocab["</s>"] = 257;
  const nlohmann::json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  nlohmann::json json = {{"version", "1.0"},
                         {"added_tokens", {SpecialToken(256, "<s>"), SpecialToken(257, "</s>")}},
                         {"pre_tokenizer", byte_level},
                         {"decoder", byte_level},
                         {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
  json["post_processor"] = nlohmann::json::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}}})");
  return json.dump();
}

std::shared_ptr<const Tokenizer> ByteTokenizer() {
  std::string folder = testing::TempDir() + "/automodeld_service_XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) throw std::runtime_error("no temporary folder");
  std::ofstream(folder + "/tokenizer.json") << TokenizerJson();
  std::ofstream(folder + "/tokenizer_config.json")
      << nlohmann::json{{"bos_token", "<s>"},
                        {"eos_token", "</s>"},
                        {"chat_template",
                         "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                         "{% if add_generation_prompt %}assistant: {% endif %}"}};
  auto tokenizer = Tokenizer::Load(folder);
  std::filesystem::remove_all(folder);
  if (!tokenizer.ok()) throw std::runtime_error(tokenizer.status().ToString());
  return *std::move(tokenizer);
}

// Letters, so that every token is a character.
TokenId NextLetter(const Request& request, std::span<const TokenId> context) {
  static const NextToken hashed = HashedTokens(26);
  return 'a' + hashed(request, context);
}

bool Is(const LoadOptions& options, const std::string& kind) { return options.model.starts_with(kind); }

}  // namespace

FakeLoader::FakeLoader()
    : limits{.max_model_len = kFakeModelLen,
             .max_num_seqs = 128,
             .max_num_batched_tokens = 512,
             .page_size = 16,
             .num_pages = 2049,
             .look_ahead = 0,
             .ragged = false},
      next_token(NextLetter),
      tokenizer_(ByteTokenizer()) {}

LoadFunction FakeLoader::function() {
  return [this](const LoadOptions& options, const LoadContext& context) { return Load(options, context); };
}

std::shared_ptr<FakeSteps> FakeLoader::steps(const std::string& model) const {
  std::lock_guard lock(mutex_);
  return steps_.at(model);
}

void FakeLoader::Hold() {
  std::lock_guard lock(mutex_);
  held_ = true;
}

void FakeLoader::Release() {
  std::lock_guard lock(mutex_);
  held_ = false;
  changed_.notify_all();
}

void FakeLoader::AwaitLoading(const std::string& model) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return waiting_[model] > 0; });
}

void FakeLoader::AwaitEnded(const std::string& model) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return ended_[model] > 0; });
}

std::vector<LoadOptions> FakeLoader::requests() const {
  std::lock_guard lock(mutex_);
  return requests_;
}

absl::StatusOr<LoadedModel> FakeLoader::Load(const LoadOptions& options, const LoadContext& context) {
  {
    std::lock_guard lock(mutex_);
    requests_.push_back(options);
  }
  context.progress({.phase = "weights", .done_bytes = 1, .total_bytes = 2, .seconds = 0.5});
  const absl::Status status = Wait(options, context);
  std::lock_guard lock(mutex_);
  ++ended_[options.model];
  changed_.notify_all();
  RETURN_IF_ERROR(status);
  if (Is(options, "throws")) throw std::runtime_error("a tensor was not what it seemed");
  if (Is(options, "broken")) {
    return absl::FailedPreconditionError(options.path + "/model.safetensors: 3 tensors are missing");
  }
  return Make(options);
}

// Waits as a real load works: it looks at the cancel flag now and then.
absl::Status FakeLoader::Wait(const LoadOptions& options, const LoadContext& context) {
  const auto cancelled = [&] { return context.cancelled != nullptr && context.cancelled->load(); };
  std::unique_lock lock(mutex_);
  ++waiting_[options.model];
  changed_.notify_all();
  while (held_ && !cancelled()) changed_.wait_for(lock, std::chrono::milliseconds(1));
  --waiting_[options.model];
  return cancelled() ? absl::CancelledError("the load was cancelled") : absl::OkStatus();
}

LoadedModel FakeLoader::Make(const LoadOptions& options) {
  const bool encoder = Is(options, "encoder");
  FakeRunnerOptions runner{.limits = limits, .next_token = next_token, .hidden_size = kFakeHidden};
  runner.fail_wait_at = fail_wait_at;
  runner.limits.ragged = encoder;
  if (encoder) runner.limits.max_num_batched_tokens = limits.max_model_len;
  if (encoder) runner.limits.num_pages = 0;
  LoadedModel model;
  model.report.info = {.model = options.model,
                       .architecture = encoder ? "BertModel" : "LlamaForCausalLM",
                       .model_type = encoder ? "bert" : "llama",
                       .dtype = "float32",
                       .device = "cpu",
                       .num_parameters = 1000,
                       .max_model_len = runner.limits.max_model_len,
                       .vocab_size = kFakeVocab,
                       .hidden_size = kFakeHidden,
                       .num_layers = 2,
                       .can_generate = !encoder,
                       .can_embed = true,
                       .has_chat_template = !encoder};
  model.report.attempts = {{"attn_implementation=flash_attention_2", "needs a GPU", "sdpa"}};
  model.report.notes = {"sample stays eager: no fused version for cpu"};
  model.report.attention_backend = "eager";
  model.report.decode_attention_ops = {"qkv_rope_write_kv"};
  model.report.weight_bytes = 4000;
  model.report.phase_seconds = {{"weights", 0.25}};
  model.report.automodeld_version = "0";
  model.generation.eos_token_ids = eos_token_ids;
  model.embedding.prompts = {{"query", "q: "}};
  if (!Is(options, "idsonly")) model.tokenizer = tokenizer_;
  auto fake = std::make_unique<FakeRunner>(std::move(runner));
  if (!options.check_only) {
    steps_[options.model] = fake->steps();
    model.runner = std::move(fake);
  }
  return model;
}

}  // namespace automodeld
