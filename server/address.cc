#include "server/address.h"

#include <fmt/format.h>

#include <boost/asio/ip/address.hpp>
#include <charconv>

#include "absl/status/status.h"

namespace automodeld {
namespace {

absl::Status Malformed(std::string_view text) {
  return absl::InvalidArgumentError(fmt::format("address: '{}' is not HOST:PORT with a port in 0..65535", text));
}

std::string_view WithoutBrackets(std::string_view host) {
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  return bracketed ? host.substr(1, host.size() - 2) : host;
}

}  // namespace

std::string Address::ToString() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

absl::StatusOr<Address> ParseAddress(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return Malformed(text);
  const std::string_view host = WithoutBrackets(text.substr(0, colon));
  const std::string_view port = text.substr(colon + 1);
  const bool ambiguous = host.size() == colon && host.find(':') != std::string_view::npos;
  Address address{.host = std::string(host)};
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  const bool whole = error == std::errc() && end == port.data() + port.size() && !port.empty();
  if (!whole || ambiguous || host.empty()) return Malformed(text);
  return address;
}

bool IsLoopback(const Address& address) {
  if (address.host == "localhost") return true;
  boost::system::error_code error;
  const auto ip = boost::asio::ip::make_address(address.host, error);
  return !error && ip.is_loopback();
}

}  // namespace automodeld
