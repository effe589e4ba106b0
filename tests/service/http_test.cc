// The HTTP pages, with friendly and with hostile clients.
#include "server/http.h"

#include <gmock/gmock.h>

#include <atomic>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>
#include <random>

#include "server/address.h"
#include "tests/await_that.h"
#include "tests/service/test_daemon.h"

namespace automodeld {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

namespace asio = boost::asio;
using asio::ip::tcp;

class Client {
 public:
  explicit Client(const std::string& address) : socket_(io_) {
    const auto parsed = ParseAddress(address);
    socket_.connect({asio::ip::make_address(parsed->host), parsed->port});
  }

  void Send(const std::string& bytes) {
    boost::system::error_code ignored;
    asio::write(socket_, asio::buffer(bytes), ignored);
  }

  // Until the server closes; empty if it says nothing.
  std::string ReadToEnd() {
    std::string bytes;
    boost::system::error_code ignored;
    asio::read(socket_, asio::dynamic_buffer(bytes), ignored);
    return bytes;
  }

  std::string ReadUntil(const std::string& end) {
    boost::system::error_code ignored;
    const size_t size = asio::read_until(socket_, asio::dynamic_buffer(buffer_), end, ignored);
    std::string bytes = buffer_.substr(0, size);
    buffer_.erase(0, size);
    return bytes;
  }

  // The server closes at its end only after we did at ours.
  std::string Ask(const std::string& request) {
    Send(request);
    boost::system::error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
    return ReadToEnd();
  }

 private:
  asio::io_context io_;
  tcp::socket socket_;
  std::string buffer_;
};

class HttpTest : public testing::Test {
 protected:
  explicit HttpTest(HttpLimits limits = {}) {
    HttpPages pages{.metrics = [] { return std::string("a_metric 1\n"); }, .ready = [this] { return ready_.load(); }};
    auto server = HttpServer::Start("127.0.0.1:0", std::move(pages), limits);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::string Ask(const std::string& request) { return Client(server_->address()).Ask(request); }
  std::string Get(const std::string& path) { return Ask("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n"); }
  void ExpectAlive() { EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200 ")); }

  std::atomic<bool> ready_ = true;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpTest, ServesMetricsAsPrometheusText) {
  const std::string answer = Get("/metrics");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(answer, HasSubstr("text/plain; version=0.0.4"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\na_metric 1\n"));
  EXPECT_THAT(Get("/metrics?name=x"), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpTest, ReadyzFollowsTheDaemonAndHealthzDoesNot) {
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 200 "));
  ready_ = false;
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpTest, HeadGivesTheHeadersOnly) {
  const std::string answer = Ask("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(answer, HasSubstr("Content-Length: 11\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\n"));
}

TEST_F(HttpTest, OneConnectionServesManyRequests) {
  Client client(server_->address());
  for (int i = 0; i < 3; ++i) {
    client.Send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_THAT(client.ReadUntil("a_metric 1\n"), StartsWith("HTTP/1.1 200 "));
  }
}

TEST_F(HttpTest, OtherPathsAre404AndOtherMethods405) {
  for (const char* path : {"/", "/metricsx", "/../etc/passwd", "/metrics/..", "//healthz"}) {
    EXPECT_THAT(Get(path), StartsWith("HTTP/1.1 404 ")) << path;
  }
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"}) {
    const std::string answer = Ask(std::string(method) + " /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 405 ")) << method;
    EXPECT_THAT(answer, HasSubstr("Allow: GET, HEAD")) << method;
  }
}

TEST_F(HttpTest, WhatIsTooLongIsRefusedAndTheServerServesOn) {
  EXPECT_THAT(Ask("GET /metrics HTTP/1.1\r\nX: " + std::string(20'000, 'x') + "\r\n\r\n"), StartsWith("HTTP/1.1 431 "));
  EXPECT_THAT(Ask("GET /" + std::string(100'000, 'x') + " HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 4"));
  EXPECT_THAT(Ask("GET / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n" + std::string(5000, 'x')),
              StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(Ask("GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"), StartsWith("HTTP/1.1 4"));
  EXPECT_THAT(Ask("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n"),
              StartsWith("HTTP/1.1 4"));
  ExpectAlive();
}

TEST_F(HttpTest, GarbageGets400) {
  for (const std::string& garbage :
       {std::string("\0\0\0\0\r\n\r\n", 8), std::string("GET\r\n\r\n"), std::string("GET / HTTP/9.9\r\n\r\n"),
        std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 13),
        std::string("GET / HTTP/1.1\r\n: x\r\n\r\n"), std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")}) {
    EXPECT_THAT(Ask(garbage), StartsWith("HTTP/1.1 400 ")) << garbage;
  }
  ExpectAlive();
}

TEST_F(HttpTest, RandomBytesNeverStopIt) {
  std::mt19937 random(1);
  const std::string seed = "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
  for (int i = 0; i < 300; ++i) {
    std::string bytes = seed;
    for (int flips = 0; flips < 4; ++flips) bytes[random() % bytes.size()] = static_cast<char>(random());
    Ask(bytes);
  }
  ExpectAlive();
}

TEST_F(HttpTest, AConnectionThatIsClosedInTheMiddleIsForgotten) {
  for (int i = 0; i < 50; ++i) Client(server_->address()).Send("GET /metr");
  ExpectAlive();
}

class ShortTimeout : public HttpTest {
 protected:
  ShortTimeout() : HttpTest(HttpLimits{.max_connections = 4, .timeout = std::chrono::milliseconds(200)}) {}
};

TEST_F(ShortTimeout, AClientThatSaysNothingIsClosed) { EXPECT_EQ(Client(server_->address()).ReadToEnd(), ""); }

TEST_F(ShortTimeout, AClientThatSpeaksByteByByteIsClosedAllTheSame) {
  Client client(server_->address());
  const auto start = std::chrono::steady_clock::now();
  const auto deadline = start + std::chrono::seconds(30);
  std::thread talk([&] {
    while (std::chrono::steady_clock::now() < start + std::chrono::milliseconds(400)) client.Send("G");
  });
  EXPECT_THAT(client.ReadToEnd(), Not(StartsWith("HTTP/1.1 200")));
  EXPECT_LT(std::chrono::steady_clock::now(), deadline);
  talk.join();
}

TEST_F(ShortTimeout, ConnectionsBeyondTheCapAreClosedAtOnceAndRoomIsMadeAgain) {
  std::vector<std::unique_ptr<Client>> idle;
  for (int i = 0; i < 4; ++i) {
    idle.push_back(std::make_unique<Client>(server_->address()));
    idle.back()->Send("GET /healthz HTTP/1.1\r\n\r\n");
    EXPECT_THAT(idle.back()->ReadUntil("alive\n"), HasSubstr("200"));
  }
  EXPECT_EQ(Client(server_->address()).ReadToEnd(), "");
  idle.clear();
  AwaitThat([&] { return Get("/healthz").starts_with("HTTP/1.1 200 "); });
}

TEST(HttpPages, MetricsCountCallsByCodeAndNeverHoldClientText) {
  TestDaemon daemon({"decoder"});
  EXPECT_TRUE(Generate(daemon.inference(), TextRequest("decoder", "abc", 4)).status.ok());
  EXPECT_FALSE(Generate(daemon.inference(), TextRequest("secret-name", "abc", 4)).status.ok());
  const std::string address = daemon.daemon().addresses().http_listen;
  const auto metrics = [&] { return Client(address).Ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"); };
  AwaitThat([&] { return metrics().find("NOT_FOUND") != std::string::npos; });
  AwaitThat([&] { return metrics().find("code=\"OK\"") != std::string::npos; });
  EXPECT_THAT(metrics(), HasSubstr("model=\"decoder\""));
  EXPECT_THAT(metrics(), Not(HasSubstr("secret-name")));
  EXPECT_THAT(Client(address).Ask("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"), StartsWith("HTTP/1.1 200 "));
}

TEST(HttpPages, MetricsCountRequestsThatCannotBeRead) {
  TestDaemon daemon({"decoder"});
  std::string ignored;
  for (const char* method : {"InferenceService/Generate", "ModelService/GetModel"}) {
    for (const char* bytes : {"\x0A\x01\xFF", "\xFF\xFF\xFF"}) {
      RawCall(daemon.channel(), std::string("/automodeld.v1.") + method, bytes, &ignored);
    }
  }
  const std::string address = daemon.daemon().addresses().http_listen;
  for (const std::string method : {"Generate", "GetModel"}) {
    const std::string row = "method=\"" + method + "\",model=\"\"} 2\n";
    AwaitThat(
        [&] { return Client(address).Ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").find(row) != std::string::npos; });
  }
}

}  // namespace
}  // namespace automodeld
