// Text to tokens, with bounds on memory and time that the tokenizer alone does not have.
#ifndef SERVER_ENCODE_TEXT_H_
#define SERVER_ENCODE_TEXT_H_

#include <absl/status/statusor.h>

#include <string>
#include <string_view>
#include <vector>

#include "core/model_registry.h"

namespace automodeld {

// No tokenizer in use has a token of more bytes; so a text of more than this many bytes a token can never fit.
inline constexpr size_t kMaxBytesPerToken = 512;

// RESOURCE_EXHAUSTED if `text` can never fit the model, so that no work goes into it.
absl::Status CheckCanFit(const ServedModel& model, std::string_view text);

// Every token of `text`; errors are Tokenizer::Encode's. On a worker thread: large texts wait for one another, because
// encoding takes 300 bytes of memory for each byte of text.
absl::StatusOr<std::vector<TokenId>> EncodeText(const Tokenizer& tokenizer, std::string_view text,
                                                bool add_special_tokens);

// The first `max_tokens` tokens of `text` as Hugging Face truncates: what the tokenizer puts around a text stays whole.
absl::StatusOr<std::vector<TokenId>> EncodeTruncated(const Tokenizer& tokenizer, std::string_view text,
                                                     size_t max_tokens);

}  // namespace automodeld

#endif  // SERVER_ENCODE_TEXT_H_
