#include "server/cli_command.h"

#include <absl/strings/match.h>
#include <absl/strings/str_replace.h>
#include <fmt/format.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <CLI/Error.hpp>
#include <iterator>

#include "server/options.h"

namespace automodeld {
namespace {

std::string OneLine(const std::string& text) { return absl::StrReplaceAll(text, {{"\n", "; "}, {"\r", ""}}); }

std::string OrElse(const Environment& environment, const std::string& name, const std::string& fallback) {
  const auto found = environment.find(name);
  return found == environment.end() ? fallback : found->second;
}

}  // namespace

ClientFlags::ClientFlags(CLI::App& command, const Environment& environment) {
  server_ = OrElse(environment, kServerVariable, server_);
  timeout_ = OrElse(environment, kTimeoutVariable, timeout_);
  command.add_option("--server", server_, fmt::format("Address of the daemon ({})", kServerVariable))
      ->type_name("HOST:PORT")
      ->capture_default_str();
  command
      .add_option("--timeout", timeout_, fmt::format("Most time the call may take, such as 30s ({})", kTimeoutVariable))
      ->type_name("DURATION")
      ->check(CheckDuration);
  // Only once the command is this one: `serve` and --help are not concerned.
  command.parse_complete_callback([this] {
    const std::string wrong = timeout_.empty() ? "" : CheckDuration(timeout_);
    if (!wrong.empty()) throw CLI::ValidationError(kTimeoutVariable, wrong);
  });
}

std::shared_ptr<grpc::Channel> ClientFlags::Connect() const {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  return grpc::CreateCustomChannel(server_, grpc::InsecureChannelCredentials(), arguments);
}

std::unique_ptr<grpc::ClientContext> ClientFlags::Context() const {
  auto context = std::make_unique<grpc::ClientContext>();
  absl::Duration timeout;
  if (absl::ParseDuration(timeout_, &timeout)) context->set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  return context;
}

int ClientFlags::Finish(Terminal& terminal, const grpc::Status& status) const {
  if (status.ok()) return kExitOk;
  std::string message = status.error_message();
  // A connection that breaks is UNAVAILABLE, too, in other words.
  const bool no_connection =
      status.error_code() == grpc::StatusCode::UNAVAILABLE && absl::StartsWith(message, "failed to connect");
  if (no_connection) message = fmt::format("no daemon answers at {} ({})", server_, message);
  return Fail(terminal, absl::Status(static_cast<absl::StatusCode>(status.error_code()), message));
}

std::string CheckDuration(const std::string& text) {
  absl::Duration duration;
  if (absl::ParseDuration(text, &duration) && duration > absl::ZeroDuration()) return "";
  return fmt::format("\"{}\" is not a duration such as 30s or 2m", text);
}

int Fail(Terminal& terminal, const absl::Status& status) {
  terminal.err << fmt::format("automodeld: {}: {}\n", absl::StatusCodeToString(status.code()),
                              OneLine(std::string(status.message())));
  return kExitFailed;
}

int Misused(Terminal& terminal, std::string_view message) {
  terminal.err << fmt::format("automodeld: {}\n", OneLine(std::string(message)));
  return kExitMisused;
}

std::string ReadAll(Terminal& terminal) {
  std::string text{std::istreambuf_iterator<char>(terminal.in), {}};
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

}  // namespace automodeld
