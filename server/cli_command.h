// What the commands of cli.h have in common: how they are added, and how they reach the daemon.
#ifndef SERVER_CLI_COMMAND_H_
#define SERVER_CLI_COMMAND_H_

#include <absl/status/status.h>
#include <absl/time/time.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <CLI/App.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "server/cli.h"

namespace automodeld {

// The command line while it is put together.
struct CommandLine {
  CLI::App& app;
  const Program& program;
  Terminal& terminal;
  std::function<int()> run;  // what the parsed command does; returns the exit code
};

// Each adds one or more commands. Their flags live as long as `line.app`.
void AddServe(CommandLine& line);
void AddCheck(CommandLine& line);
void AddLoad(CommandLine& line);
void AddUnload(CommandLine& line);
void AddModels(CommandLine& line);
void AddGenerate(CommandLine& line);
void AddEmbed(CommandLine& line);
void AddHealth(CommandLine& line);
void AddBench(CommandLine& line);

// A command whose flags are members of `Command` and whose work is its Run(). Command(CLI::App&, CommandLine&).
template <typename Command>
void AddCommand(CommandLine& line, const std::string& name, const std::string& description) {
  CLI::App* app = line.app.add_subcommand(name, description);
  const auto command = std::make_shared<Command>(*app, line);
  app->callback([&line, command] { line.run = [command] { return command->Run(); }; });
}

// --server and --timeout, and what follows from them.
class ClientFlags {
 public:
  // Their defaults are AUTOMODELD_SERVER and AUTOMODELD_TIMEOUT, if set. Stays where it is until the command has run.
  ClientFlags(CLI::App& command, const Environment& environment);
  ClientFlags(const ClientFlags&) = delete;
  ClientFlags& operator=(const ClientFlags&) = delete;

  // Each with a connection of its own.
  std::shared_ptr<grpc::Channel> Connect() const;

  // With the deadline, if there is one.
  std::unique_ptr<grpc::ClientContext> Context() const;

  // Says on stderr what went wrong and returns kExitFailed; kExitOk for OK.
  //   automodeld: NOT_FOUND: model "x" is not loaded; loaded: a, b
  int Finish(Terminal& terminal, const grpc::Status& status) const;

 private:
  std::string server_ = "127.0.0.1:50051";
  std::string timeout_;  // empty: none
};

// Empty if `text` is a duration above zero, else what is wrong with it; for CLI11's check().
std::string CheckDuration(const std::string& text);

int Fail(Terminal& terminal, const absl::Status& status);
int Misused(Terminal& terminal, std::string_view message);

// All of stdin without a newline at its end.
std::string ReadAll(Terminal& terminal);

}  // namespace automodeld

#endif  // SERVER_CLI_COMMAND_H_
