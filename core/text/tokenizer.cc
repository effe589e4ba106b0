#include "core/text/call.h"
#include "core/text/ffi.h"
#include "core/text/text.h"

namespace automodeld {
namespace {

std::optional<int32_t> IdOrNone(int32_t id) { return id < 0 ? std::nullopt : std::optional(id); }

}  // namespace

void Tokenizer::Free::operator()(AmTextTokenizer* handle) const { am_text_tokenizer_free(handle); }

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Load(const std::string& folder) {
  text::OwnedBytes error;
  AmTextTokenizer* handle = nullptr;
  AmTextFacts facts = {};
  const int32_t code = am_text_tokenizer_load(folder.data(), folder.size(), &handle, &facts, error.get());
  if (code != 0) return error.ToStatus(code);
  return std::shared_ptr<const Tokenizer>(new Tokenizer(handle, {.vocab_size = facts.vocab_size,
                                                                 .bos_id = IdOrNone(facts.bos_id),
                                                                 .eos_id = IdOrNone(facts.eos_id),
                                                                 .pad_id = IdOrNone(facts.pad_id),
                                                                 .model_max_length = facts.model_max_length,
                                                                 .has_chat_template = facts.has_chat_template != 0,
                                                                 .chat_takes_tools = facts.chat_takes_tools != 0}));
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, bool add_special_tokens) const {
  text::OwnedBytes error;
  text::OwnedIds ids;
  const int32_t code =
      am_text_encode(handle_.get(), text.data(), text.size(), add_special_tokens, ids.get(), error.get());
  if (code != 0) return error.ToStatus(code);
  return ids.ToVector();
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  text::OwnedBytes error, text;
  const int32_t code =
      am_text_decode(handle_.get(), ids.data(), ids.size(), skip_special_tokens, text.get(), error.get());
  if (code != 0) return error.ToStatus(code);
  return text.ToString();
}

std::optional<int32_t> Tokenizer::TokenToId(const std::string& token) const {
  return IdOrNone(am_text_token_to_id(handle_.get(), token.data(), token.size()));
}

int Tokenizer::vocab_size() const { return facts_.vocab_size; }
std::optional<int32_t> Tokenizer::bos_id() const { return facts_.bos_id; }
std::optional<int32_t> Tokenizer::eos_id() const { return facts_.eos_id; }
std::optional<int32_t> Tokenizer::pad_id() const { return facts_.pad_id; }
int Tokenizer::model_max_length() const { return facts_.model_max_length; }
bool Tokenizer::has_chat_template() const { return facts_.has_chat_template; }
bool Tokenizer::chat_takes_tools() const { return facts_.chat_takes_tools; }

absl::StatusOr<std::string> Tokenizer::RenderChat(const std::string& messages_json, const ChatOptions& options) const {
  text::OwnedBytes error, prompt;
  const int32_t code = am_text_render_chat(
      handle_.get(), messages_json.data(), messages_json.size(), options.tools_json.data(), options.tools_json.size(),
      options.extra_json.data(), options.extra_json.size(), options.add_generation_prompt, prompt.get(), error.get());
  if (code != 0) return error.ToStatus(code);
  return prompt.ToString();
}

}  // namespace automodeld
