#include "server/listener.h"

#include <fmt/format.h>
#include <google/protobuf/stubs/common.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include "core/status.h"
#include "server/address.h"

#if GOOGLE_PROTOBUF_VERSION < 4022000  // later ones log through Abseil
#include <google/protobuf/stubs/logging.h>
#define AUTOMODELD_PROTOBUF_LOGS 1
#endif

namespace automodeld {
namespace {

// Switches of the whole process, which must be set before the first server is built. Protobuf would write a line to
// standard error for every malformed message that a client sends.
void EnableHealthAndReflection() {
  static const bool once = [] {
#ifdef AUTOMODELD_PROTOBUF_LOGS
    google::protobuf::SetLogHandler(nullptr);
#endif
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  static_cast<void>(once);
}

// Pings find clients that are gone without a word; clients that ping more often than every 10 s are sent away.
void SetLimits(const ListenerLimits& limits, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(limits.max_message_bytes);
  builder->SetMaxSendMessageSize(-1);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a second daemon on the port is an error
}

}  // namespace

Listener::Listener(const Services& services, const ModelServiceOptions& models, LoadsInProgress* loads)
    : inference_(services), models_(services, models, loads) {}

Listener::~Listener() { Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<Listener>> Listener::Start(const std::string& address, const ListenerLimits& limits,
                                                          const Services& services, const ModelServiceOptions& models,
                                                          LoadsInProgress* loads) {
  std::unique_ptr<Listener> listener(new Listener(services, models, loads));
  RETURN_IF_ERROR(listener->Listen(address, limits));
  return listener;
}

absl::Status Listener::Listen(const std::string& text, const ListenerLimits& limits) {
  EnableHealthAndReflection();
  ASSIGN_OR_RETURN(Address address, ParseAddress(text));
  int port = 0;
  grpc::ServerBuilder builder;
  SetLimits(limits, &builder);
  builder.AddListeningPort(address.ToString(), grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&inference_);
  builder.RegisterService(&models_);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port == 0) {
    return absl::UnavailableError(fmt::format(
        "cannot listen on {}: it is no address of this machine, or another process has the port; choose another",
        text));
  }
  address.port = static_cast<uint16_t>(port);
  address_ = address.ToString();
  return absl::OkStatus();
}

void Listener::Shutdown(absl::Duration grace) {
  if (server_ != nullptr) server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
}

}  // namespace automodeld
