// One gRPC port with all services on it, health and reflection included.
//
//   ASSIGN_OR_RETURN(auto listener, Listener::Start("127.0.0.1:50051", {}, services, model_options, &loads));
//   listener->address();   // with the port in use
#ifndef SERVER_LISTENER_H_
#define SERVER_LISTENER_H_

#include <absl/status/statusor.h>
#include <absl/time/time.h>
#include <grpcpp/server.h>

#include <memory>
#include <string>

#include "server/inference_service.h"
#include "server/model_service.h"

namespace automodeld {

struct ListenerLimits {
  int max_message_bytes = 32 << 20;
  int max_concurrent_streams = 1024;  // per connection
};

class Listener {
 public:
  // UNAVAILABLE where it cannot listen. All that `services` points to, and `loads`, outlive it.
  static absl::StatusOr<std::unique_ptr<Listener>> Start(const std::string& address, const ListenerLimits& limits,
                                                         const Services& services, const ModelServiceOptions& models,
                                                         LoadsInProgress* loads);
  ~Listener();  // Shutdown at once

  const std::string& address() const { return address_; }
  grpc::HealthCheckServiceInterface* health() const { return server_->GetHealthCheckService(); }

  // Takes no more calls, lets the present ones (Watch streams, too) go on for `grace`, then cancels them.
  void Shutdown(absl::Duration grace);

 private:
  Listener(const Services& services, const ModelServiceOptions& models, LoadsInProgress* loads);
  absl::Status Listen(const std::string& address, const ListenerLimits& limits);

  InferenceService inference_;
  ModelService models_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace automodeld

#endif  // SERVER_LISTENER_H_
