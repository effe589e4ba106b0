// Text of a Hugging Face checkpoint: tokenizer, chat template, and decoding token by token.
//
//   ASSIGN_OR_RETURN(std::shared_ptr<const Tokenizer> tokenizer, Tokenizer::Load("/models/Qwen3-0.6B"));
//   ASSIGN_OR_RETURN(std::string prompt, tokenizer->RenderChat(R"([{"role": "user", "content": "Hi"}])", {}));
//   ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer->Encode(prompt, /*add_special_tokens=*/false));
//   DecodeStream stream(tokenizer);
//   for (int32_t id : generated) { ASSIGN_OR_RETURN(std::string text, stream.Push(id)); Send(text); }
//   Send(stream.Flush());
//
// The work is done by a Rust library (src/, behind ffi.h): the crates that transformers' fast tokenizers are made of,
// and Jinja. Whatever a file or a client holds, the answer is a Status: parse errors and panics in there included.
// Messages name the field or the file, the value and the limit, never a path.
#ifndef CORE_TEXT_TEXT_H_
#define CORE_TEXT_TEXT_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct AmTextTokenizer;
struct AmTextStream;

namespace automodeld {

// The longest text that Encode takes, and the longest messages_json. Time is at worst proportional to n log n, memory
// to n: up to 300 bytes for each byte of text while it is encoded, 600 where NFKC makes a character long. At this limit
// that is gigabytes and many seconds, so callers that know the model's length should refuse sooner.
inline constexpr size_t kMaxTextBytes = 8 << 20;

struct ChatOptions {
  // Ends the prompt with the opening of the assistant's turn.
  bool add_generation_prompt = true;
  // JSON array of tools, as in OpenAI's API; or empty. At most 1 MiB. Selects the template `tool_use` if there is one.
  std::string tools_json{};
  // JSON object of further template variables, such as {"enable_thinking": false}; or empty. At most 1 MiB.
  std::string extra_json{};
};

// Immutable; any number of threads may use one at once.
class Tokenizer {
 public:
  // Reads from `folder`:
  //   tokenizer.json            the tokenizer; its truncation and padding are ignored
  //   tokenizer_config.json     special tokens (they count as special even if tokenizer.json says otherwise),
  //                             model_max_length, chat_template (a string, or a list of {name, template})
  //   special_tokens_map.json   special tokens in older checkpoints
  //   chat_template.jinja, chat_template.json, additional_chat_templates/*.jinja
  // All but the first may be absent. NOT_FOUND: no tokenizer.json. INVALID_ARGUMENT: a file is malformed (a chat
  // template that does not parse is RenderChat's error), or larger than 256 MiB (tokenizer.json), 32 MiB (the other
  // .json files) or 256 KiB (a template). FAILED_PRECONDITION: a file cannot be read, or is a folder, a pipe or a
  // device. RESOURCE_EXHAUSTED: the chat templates' parsing passed 512 MiB or 20 s.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Load(const std::string& folder);

  // The ids of `text`, never cut. Special tokens written out in the text become their ids, as in transformers;
  // `add_special_tokens` adds what the tokenizer puts around a text ([CLS] … [SEP], <s> …): true for plain text, false
  // for a rendered chat. INVALID_ARGUMENT: invalid UTF-8, more than kMaxTextBytes, or a text that has no encoding.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special_tokens) const;

  // The text of `ids`: always valid UTF-8, with U+FFFD for bytes that are none. As transformers with
  // clean_up_tokenization_spaces=False; but where a run of byte tokens (<0x0A>) is broken in one place, only that
  // place turns into U+FFFD. INVALID_ARGUMENT: an id outside 0..vocab_size()-1.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  std::optional<int32_t> TokenToId(const std::string& token) const;

  // One past the largest id, added tokens included. A model's logits may be wider (padding).
  int vocab_size() const;

  // As tokenizer_config.json names them; generation_config.json may name more ends of sequence.
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  std::optional<int32_t> pad_id() const;

  // In tokens; 0 if the checkpoint names no limit (transformers writes 1e30).
  int model_max_length() const;

  bool has_chat_template() const;

  // Whether the template that RenderChat takes for a chat with tools reads the variable `tools`: false if it would drop
  // them silently. True if RenderChat has an error to tell (no template, or one that does not parse).
  bool chat_takes_tools() const;

  // The prompt of a chat, as transformers' apply_chat_template(tokenize=False) renders it. `messages_json` is an array
  // of objects: [{"role": "user", "content": "Hi" | [parts], "tool_calls": […]}, …]. The template sees `messages`,
  // `tools`, `documents`, `add_generation_prompt`, the special tokens (`bos_token`, …) and extra_json's variables.
  // FAILED_PRECONDITION: no template, or one that does not parse. INVALID_ARGUMENT: malformed JSON, a prompt over
  // 4 MiB, or the template refuses (raise_exception; its words, up to 1 KiB, are the message) or fails.
  // RESOURCE_EXHAUSTED: the template passed 2,000,000 steps, 512 MiB or 20 s. One that passed memory or time twice,
  // and still holds that, is refused without being tried.
  absl::StatusOr<std::string> RenderChat(const std::string& messages_json, const ChatOptions& options) const;

 private:
  friend class DecodeStream;
  struct Free {
    void operator()(AmTextTokenizer* handle) const;
  };
  struct Facts {
    int vocab_size;
    std::optional<int32_t> bos_id, eos_id, pad_id;
    int model_max_length;
    bool has_chat_template, chat_takes_tools;
  };

  Tokenizer(AmTextTokenizer* handle, const Facts& facts) : handle_(handle), facts_(facts) {}

  std::unique_ptr<AmTextTokenizer, Free> handle_;
  Facts facts_;
};

// Decodes one stream of ids. The texts that Push returned and then Flush's, joined, are what Decode says for all the
// ids. One thread at a time; movable. A Push costs the decoding of at most a few tokens, however long the stream.
class DecodeStream {
 public:
  explicit DecodeStream(const std::shared_ptr<const Tokenizer>& tokenizer, bool skip_special_tokens = true);

  // Returns the text that became certain: possibly empty, always valid UTF-8. Held back are only the bytes (at most
  // three) of a character that is not complete. INVALID_ARGUMENT: an id outside 0..vocab_size()-1; the stream then
  // goes on as if it had not been pushed.
  absl::StatusOr<std::string> Push(int32_t id);

  // Returns what is held back: empty, or one U+FFFD. The stream is as new afterwards.
  std::string Flush();

 private:
  struct Free {
    void operator()(AmTextStream* handle) const;
  };

  std::unique_ptr<AmTextStream, Free> handle_;
};

}  // namespace automodeld

#endif  // CORE_TEXT_TEXT_H_
