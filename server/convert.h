// Between the wire and core: statuses, and the range checks that all requests share.
#ifndef SERVER_CONVERT_H_
#define SERVER_CONVERT_H_

#include <absl/status/status.h>
#include <absl/time/time.h>
#include <fmt/format.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <cmath>
#include <string>
#include <string_view>

namespace automodeld {

// Codes have the same numbers in both. Long messages are cut: they travel as headers, which
// clients refuse beyond 8 KiB.
grpc::Status ToGrpc(const absl::Status& status);

// The far future where the client set none.
absl::Time ToTime(std::chrono::system_clock::time_point deadline);

// INVALID_ARGUMENT `field: value is outside lo..hi` unless lo <= value <= hi; NaN never is.
template <typename T>
absl::Status CheckRange(std::string_view field, T value, T lo, T hi) {
  if (value >= lo && value <= hi) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{}: {} is outside {}..{}", field, value, lo, hi));
}

// The same for lo < value <= hi.
absl::Status CheckAbove(std::string_view field, float value, float lo, float hi);

// INVALID_ARGUMENT unless `size` is in lo..hi; `unit` is what is counted, such as "bytes".
absl::Status CheckSize(std::string_view field, size_t size, size_t lo, size_t hi, std::string_view unit);

// `field`: not given
absl::Status Missing(std::string_view field);

// UNIMPLEMENTED, for a field whose feature this version does not have.
absl::Status NotYet(std::string_view field, std::string_view value);

}  // namespace automodeld

#endif  // SERVER_CONVERT_H_
