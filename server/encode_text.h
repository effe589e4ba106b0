// Text to tokens, with bounds on memory and time that the tokenizer alone does not have.
//
//   RETURN_IF_ERROR(CheckCanFit(model, request.text()));
//   Post(services().PoolFor(request.text().size()), …);  // a large text waits for those before it, and holds no worker
#ifndef SERVER_ENCODE_TEXT_H_
#define SERVER_ENCODE_TEXT_H_

#include <absl/status/statusor.h>

#include <string>
#include <string_view>
#include <vector>

#include "core/model_registry.h"

namespace automodeld {

// Longer texts are large: encoding takes 300 bytes of memory for each byte of text, so one of them is encoded at a
// time.
inline constexpr size_t kLargeText = 1 << 20;

// No tokenizer in use has a token of more bytes.
inline constexpr size_t kMaxBytesPerToken = 512;

// RESOURCE_EXHAUSTED if `text` is large and has more than kMaxBytesPerToken for each token that the model takes, so
// that no work goes into it.
absl::Status CheckCanFit(const ServedModel& model, std::string_view text);

// The first `max_tokens` tokens of `text` as Hugging Face truncates: what the tokenizer puts around a text stays whole.
absl::StatusOr<std::vector<TokenId>> EncodeTruncated(const Tokenizer& tokenizer, std::string_view text,
                                                     size_t max_tokens);

}  // namespace automodeld

#endif  // SERVER_ENCODE_TEXT_H_
