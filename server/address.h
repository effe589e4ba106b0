// Addresses to listen on: "127.0.0.1:50051", "[::1]:50051", "localhost:0", "0.0.0.0:50051".
//
//   ASSIGN_OR_RETURN(Address address, ParseAddress("127.0.0.1:8080"));
//   if (!IsLoopback(address)) ...
#ifndef SERVER_ADDRESS_H_
#define SERVER_ADDRESS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace automodeld {

struct Address {
  std::string host;   // without brackets
  uint16_t port = 0;  // 0: the system chooses one

  // "host:port", with brackets around an IPv6 host.
  std::string ToString() const;
};

// INVALID_ARGUMENT where there is no host, no port, or a port outside 0..65535.
absl::StatusOr<Address> ParseAddress(std::string_view text);

// True for 127.0.0.0/8, ::1 and localhost: nobody on another machine can reach it.
bool IsLoopback(const Address& address);

}  // namespace automodeld

#endif  // SERVER_ADDRESS_H_
