// How the client commands reach a daemon.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>

#include "tests/service/cli_runner.h"

namespace automodeld {
namespace {

// A port of the loopback that takes one connection and answers nothing.
class SilentServer {
 public:
  SilentServer() : listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* any = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(bind(listener_, any, size), 0);
    EXPECT_EQ(listen(listener_, 1), 0);
    EXPECT_EQ(getsockname(listener_, any, &size), 0);
    address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  }
  ~SilentServer() { close(listener_); }

  const std::string& address() const { return address_; }

  // Whether a client that has connected hangs up within `wait`; then the connection is closed.
  bool ClientHangsUpWithin(std::chrono::milliseconds wait) const {
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    pollfd hangs_up{.fd = client, .events = POLLRDHUP, .revents = 0};
    const int changed = poll(&hangs_up, 1, static_cast<int>(wait.count()));
    close(client);
    return changed != 0;
  }

 private:
  int listener_;
  std::string address_;
};

TEST(CliConnection, ADaemonThatIsSlowToAnswerIsNotGivenUp) {
  CliResult result;
  std::thread client;
  {
    const SilentServer server;
    client = std::thread([&] { result = RunCli({"models", "--server", server.address(), "--timeout", "30s"}); });
    EXPECT_FALSE(server.ClientHangsUpWithin(std::chrono::milliseconds(500)));
    client.join();
  }
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find("UNAVAILABLE: no daemon answers at 127.0.0.1:"), std::string::npos) << result.err;
}

TEST(CliConnection, APortWhereNobodyListensIsToldAtOnce) {
  const std::string address = SilentServer().address();
  const CliResult result = RunCli({"models", "--server", address, "--timeout", "30s"});
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find("UNAVAILABLE: no daemon answers at " + address), std::string::npos) << result.err;
}

}  // namespace
}  // namespace automodeld
