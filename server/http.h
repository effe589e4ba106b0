// The plain HTTP side of the daemon, for Prometheus and for probes that do not speak gRPC. GET and HEAD only.
//
//   /metrics   Prometheus text
//   /healthz   200 while the process answers
//   /readyz    200 if the daemon takes calls, else 503
//
//   ASSIGN_OR_RETURN(auto http, HttpServer::Start("127.0.0.1:8080", {.metrics = ..., .ready = ...}));
//
// One thread serves everything. Whatever a client sends, it costs at most the limits below: longer headers answer 431,
// longer bodies 413, malformed requests 400; connections beyond the cap are closed at once, slow ones after `timeout`.
#ifndef SERVER_HTTP_H_
#define SERVER_HTTP_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace automodeld {

// What the pages show. Both are called on the HTTP thread and must not block.
struct HttpPages {
  std::function<std::string()> metrics;  // Prometheus text
  std::function<bool()> ready;
};

struct HttpLimits {
  size_t max_connections = 256;
  uint32_t max_header_bytes = 8192;
  uint64_t max_body_bytes = 4096;
  std::chrono::milliseconds timeout{10'000};  // for one request and its answer, and for an idle connection
};

class HttpServer {
 public:
  // Listens on `address` ("host:port", port 0: any) and starts the thread. UNAVAILABLE where it cannot listen.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address, HttpPages pages,
                                                           HttpLimits limits = {});
  ~HttpServer();  // closes all connections and joins the thread

  // "host:port" with the port in use.
  std::string address() const;

 private:
  class Listener;  // keeps Boost.Beast out of this header
  explicit HttpServer(std::unique_ptr<Listener> listener);
  std::unique_ptr<Listener> listener_;
};

}  // namespace automodeld

#endif  // SERVER_HTTP_H_
