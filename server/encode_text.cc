#include "server/encode_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/status.h"

namespace automodeld {
namespace {

// The beginning of `text`, at most `size` bytes, without half a character at its end.
std::string_view Beginning(std::string_view text, size_t size) {
  if (text.size() <= size) return text;
  while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0U) == 0x80U) --size;
  return text.substr(0, size);
}

// Where `content` lies in `whole`, which is the same tokens with others around them.
size_t Offset(const std::vector<TokenId>& whole, const std::vector<TokenId>& content) {
  const auto at = std::search(whole.begin(), whole.end(), content.begin(), content.end());
  return at == whole.end() ? 0 : static_cast<size_t>(at - whole.begin());
}

}  // namespace

absl::Status CheckCanFit(const ServedModel& model, std::string_view text) {
  const auto max_tokens = static_cast<size_t>(model.report.info.max_model_len);
  if (text.size() <= std::max(kLargeText, max_tokens * kMaxBytesPerToken)) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("text: {} bytes can never fit max_model_len {}", text.size(), max_tokens));
}

absl::StatusOr<std::vector<TokenId>> EncodeTruncated(const Tokenizer& tokenizer, std::string_view text,
                                                     size_t max_tokens) {
  text = Beginning(text, max_tokens * kMaxBytesPerToken);
  ASSIGN_OR_RETURN(std::vector<TokenId> ids, tokenizer.Encode(text, true));
  if (ids.size() <= max_tokens) return ids;
  ASSIGN_OR_RETURN(const std::vector<TokenId> content, tokenizer.Encode(text, false));
  const size_t content_end = Offset(ids, content) + content.size();
  const size_t too_many = std::min(ids.size() - max_tokens, content.size());
  ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(content_end - too_many),
            ids.begin() + static_cast<std::ptrdiff_t>(content_end));
  ids.resize(std::min(ids.size(), max_tokens));
  return ids;
}

}  // namespace automodeld
