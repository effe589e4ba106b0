// Results of ffi.h's functions, owned by C++ values. For the .cc files of this folder.
//
//   text::OwnedBytes error, text;
//   const int32_t code = am_text_decode(handle, ids, n, true, text.get(), error.get());
//   if (code != 0) return error.ToStatus(code);
//   return text.ToString();
#ifndef CORE_TEXT_CALL_H_
#define CORE_TEXT_CALL_H_

#include <absl/status/status.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/text/ffi.h"

namespace automodeld::text {

class OwnedBytes {
 public:
  OwnedBytes() = default;
  OwnedBytes(const OwnedBytes&) = delete;
  OwnedBytes& operator=(const OwnedBytes&) = delete;
  ~OwnedBytes() { am_text_bytes_free(bytes_); }

  AmTextBytes* get() { return &bytes_; }
  std::string ToString() const { return std::string(bytes_.data, bytes_.size); }
  // `code` as ffi.h defines it, with these bytes as the message.
  absl::Status ToStatus(int32_t code) const { return {static_cast<absl::StatusCode>(code), ToString()}; }

 private:
  AmTextBytes bytes_ = {};
};

class OwnedIds {
 public:
  OwnedIds() = default;
  OwnedIds(const OwnedIds&) = delete;
  OwnedIds& operator=(const OwnedIds&) = delete;
  ~OwnedIds() { am_text_ids_free(ids_); }

  AmTextIds* get() { return &ids_; }
  std::vector<int32_t> ToVector() const { return {ids_.data, ids_.data + ids_.size}; }

 private:
  AmTextIds ids_ = {};
};

}  // namespace automodeld::text

#endif  // CORE_TEXT_CALL_H_
