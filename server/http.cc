#include "server/http.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/version.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "core/status.h"
#include "server/address.h"

namespace automodeld {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;
using error_code = boost::system::error_code;

// What all connections share. Touched by the HTTP thread only.
struct Site {
  HttpPages pages;
  HttpLimits limits;
  size_t open_connections = 0;
};

struct Page {
  http::status status;
  std::string body;
};

Page Route(const Site& site, http::verb method, std::string_view target) {
  if (method != http::verb::get && method != http::verb::head) {
    return {http::status::method_not_allowed, "only GET and HEAD\n"};
  }
  const std::string_view path = target.substr(0, target.find('?'));
  if (path == "/metrics") return {http::status::ok, site.pages.metrics()};
  if (path == "/healthz") return {http::status::ok, "alive\n"};
  if (path != "/readyz") return {http::status::not_found, "only /metrics, /healthz and /readyz\n"};
  if (site.pages.ready()) return {http::status::ok, "ready\n"};
  return {http::status::service_unavailable, "not ready\n"};
}

template <typename Body>
http::response<Body> Headers(const Page& page, unsigned version, bool keep_alive) {
  http::response<Body> response(page.status, version);
  response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
  if (page.status == http::status::method_not_allowed) response.set(http::field::allow, "GET, HEAD");
  response.keep_alive(keep_alive);
  return response;
}

http::message_generator Answer(Page page, unsigned version, bool keep_alive, bool head_only) {
  if (head_only) {
    auto response = Headers<http::empty_body>(page, version, keep_alive);
    response.content_length(page.body.size());
    return response;
  }
  auto response = Headers<http::string_body>(page, version, keep_alive);
  response.body() = std::move(page.body);
  response.prepare_payload();
  return response;
}

// The answer to bytes that are no acceptable request; none where the connection is simply gone.
std::optional<Page> Complaint(const error_code& error) {
  if (error.category() != http::make_error_code(http::error::bad_method).category()) return std::nullopt;
  if (error == http::error::end_of_stream || error == http::error::partial_message) return std::nullopt;
  if (error == http::error::header_limit) {
    return Page{http::status::request_header_fields_too_large, "header is too large\n"};
  }
  if (error == http::error::body_limit) return Page{http::status::payload_too_large, "body is too large\n"};
  return Page{http::status::bad_request, "malformed request\n"};
}

// One connection: reads a request, answers it, and again. It owns itself through the handlers it waits on.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(tcp::socket socket, Site* site) : stream_(std::move(socket)), site_(*site) { ++site_.open_connections; }
  ~Session() { --site_.open_connections; }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void Read() {
    parser_.emplace();
    parser_->header_limit(site_.limits.max_header_bytes);
    parser_->body_limit(site_.limits.max_body_bytes);
    stream_.expires_after(site_.limits.timeout);
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](error_code error, size_t) { self->OnRead(error); });
  }

 private:
  void OnRead(const error_code& error) {
    if (error) {
      if (auto page = Complaint(error)) Write(Answer(std::move(*page), 11, false, false));
      return;
    }
    const auto& request = parser_->get();
    Page page = Route(site_, request.method(), std::string_view(request.target().data(), request.target().size()));
    Write(Answer(std::move(page), request.version(), request.keep_alive(), request.method() == http::verb::head));
  }

  void Write(http::message_generator answer) {
    const bool keep_alive = answer.keep_alive();
    beast::async_write(stream_, std::move(answer), [self = shared_from_this(), keep_alive](error_code error, size_t) {
      if (error) return;
      keep_alive ? self->Read() : self->Close();
    });
  }

  // Reads on until the client hangs up, because closing with bytes unread would take the answer back from it.
  void Close() {
    error_code ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    stream_.expires_after(site_.limits.timeout);
    Drain();
  }

  void Drain() {
    buffer_.clear();
    stream_.async_read_some(buffer_.prepare(4096), [self = shared_from_this()](error_code error, size_t) {
      if (!error) self->Drain();
    });
  }

  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  Site& site_;
};

}  // namespace

class HttpServer::Listener {
 public:
  Listener(HttpPages pages, HttpLimits limits)
      : site_{.pages = std::move(pages), .limits = limits}, acceptor_(io_), pause_(io_) {}

  ~Listener() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Listen(const std::string& text) {
    ASSIGN_OR_RETURN(address_, ParseAddress(text));
    try {
      tcp::resolver resolver(io_);
      const tcp::endpoint endpoint = *resolver.resolve(address_.host, std::to_string(address_.port)).begin();
      acceptor_.open(endpoint.protocol());
      acceptor_.set_option(asio::socket_base::reuse_address(true));
      acceptor_.bind(endpoint);
      acceptor_.listen();
      address_.port = acceptor_.local_endpoint().port();
    } catch (const boost::system::system_error& error) {
      return absl::UnavailableError(
          fmt::format("cannot listen on {}: {}; choose another address", text, error.code().message()));
    }
    Accept();
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }

  std::string address() const { return address_.ToString(); }

 private:
  void Accept() {
    acceptor_.async_accept([this](error_code error, tcp::socket socket) {
      if (error) return AcceptLater();
      Accept();
      if (site_.open_connections < site_.limits.max_connections) {
        std::make_shared<Session>(std::move(socket), &site_)->Read();
      }
    });
  }

  // Out of file descriptors, most likely: the connection stays in the kernel's queue, and asking at once would spin.
  void AcceptLater() {
    pause_.expires_after(std::chrono::milliseconds(100));
    pause_.async_wait([this](error_code error) {
      if (!error) Accept();
    });
  }

  // A handler that throws (out of memory) loses its connection, not the server.
  void Run() {
    for (bool again = true; again;) {
      try {
        io_.run();
        again = false;
      } catch (const std::exception& error) {
        spdlog::warn("http: a connection was dropped: {}", error.what());
      }
    }
  }

  Site site_;  // before io_: the sessions that io_ still holds when it goes count themselves out here
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  Address address_;
  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address, HttpPages pages,
                                                              HttpLimits limits) {
  auto listener = std::make_unique<Listener>(std::move(pages), limits);
  RETURN_IF_ERROR(listener->Listen(address));
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(listener)));
}

HttpServer::HttpServer(std::unique_ptr<Listener> listener) : listener_(std::move(listener)) {}
HttpServer::~HttpServer() = default;

std::string HttpServer::address() const { return listener_->address(); }

}  // namespace automodeld
