#include "server/convert.h"

namespace automodeld {
namespace {

constexpr size_t kMaxEncodedBytes = 7000;

// As it travels: everything but printable ASCII is percent-encoded.
size_t EncodedBytes(char byte) { return byte >= ' ' && byte <= '~' && byte != '%' ? 1 : 3; }

bool ContinuesCharacter(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U; }

std::string Cut(std::string message) {
  size_t end = 0;
  for (size_t encoded = 0; end < message.size(); ++end) {
    encoded += EncodedBytes(message[end]);
    if (encoded > kMaxEncodedBytes) break;
  }
  if (end == message.size()) return message;
  while (end > 0 && ContinuesCharacter(message[end])) --end;
  return message.substr(0, end) + " ... (cut; of a load that failed, the daemon's log has all)";
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), Cut(std::string(status.message())));
}

absl::Time ToTime(std::chrono::system_clock::time_point deadline) {
  const bool never = deadline == std::chrono::system_clock::time_point::max();
  return never ? absl::InfiniteFuture() : absl::FromChrono(deadline);
}

absl::Status CheckAbove(std::string_view field, float value, float lo, float hi) {
  if (value > lo && value <= hi) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{}: {} is outside {}..{} (above {})", field, value, lo, hi, lo));
}

absl::Status CheckSize(std::string_view field, size_t size, size_t lo, size_t hi, std::string_view unit) {
  if (size >= lo && size <= hi) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{}: {} {} is outside {}..{}", field, size, unit, lo, hi));
}

absl::Status Missing(std::string_view field) {
  return absl::InvalidArgumentError(fmt::format("{}: must be given", field));
}

absl::Status NotYet(std::string_view field, std::string_view value) {
  return absl::UnimplementedError(fmt::format("{}: {} is not supported by this version", field, value));
}

}  // namespace automodeld
