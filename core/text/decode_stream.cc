#include "core/text/call.h"
#include "core/text/ffi.h"
#include "core/text/text.h"

namespace automodeld {

void DecodeStream::Free::operator()(AmTextStream* handle) const { am_text_stream_free(handle); }

DecodeStream::DecodeStream(const std::shared_ptr<const Tokenizer>& tokenizer, bool skip_special_tokens)
    : handle_(am_text_stream_new(tokenizer->handle_.get(), skip_special_tokens)) {}

absl::StatusOr<std::string> DecodeStream::Push(int32_t id) {
  text::OwnedBytes error, text;
  const int32_t code = am_text_stream_push(handle_.get(), id, text.get(), error.get());
  if (code != 0) return error.ToStatus(code);
  return text.ToString();
}

std::string DecodeStream::Flush() {
  text::OwnedBytes error, text;
  am_text_stream_flush(handle_.get(), text.get(), error.get());
  return text.ToString();
}

}  // namespace automodeld
