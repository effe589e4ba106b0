#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <latch>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "core/op_library.h"
#include "core/version.h"
#include "server/address.h"
#include "server/cli_command.h"
#include "server/daemon.h"
#include "server/options.h"

namespace automodeld {
namespace {

std::string Description(const Option& option) {
  std::string text = option.help;
  if (!option.range.empty() && !option.value.empty()) text += fmt::format(" {}.", option.range);
  if (!option.default_value.empty() && !option.value.empty())
    text += fmt::format(" Default: {}.", option.default_value);
  text += fmt::format(" ({}", option.environment);
  return text + (option.key.empty() ? ")" : fmt::format(", {})", option.key));
}

CLI::Option* AddFlag(CLI::App& command, const Option& option) {
  if (option.value.empty()) {
    const std::string names = option.flag + ",!--no-" + option.flag.substr(2);
    return command.add_flag(names)
        ->description(Description(option))
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
  return command.add_option(option.flag)
      ->description(Description(option))
      ->type_name(option.value)
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(option.repeatable ? CLI::MultiOptionPolicy::TakeAll : CLI::MultiOptionPolicy::TakeLast);
}

bool IsOpen(const std::string& text) {
  const auto address = ParseAddress(text);
  return address.ok() && !IsLoopback(*address);
}

// What someone on another machine can do, a line each.
std::vector<std::string> Unprotected(const DaemonAddresses& addresses) {
  std::vector<std::string> lines;
  const auto warn = [&](const std::string& address, const char* what) {
    if (IsOpen(address)) lines.push_back(fmt::format("{}: no TLS, no token: whoever reaches it can {}", address, what));
  };
  warn(addresses.listen, "generate and embed");
  warn(addresses.admin_listen, "load and unload models");
  warn(addresses.http_listen, "read the metrics");
  return lines;
}

std::string Source(const v1::LoadModelRequest& model) {
  return model.has_path() ? model.path() : "random weights from its config_json";
}

using Rows = std::vector<std::vector<std::string>>;

void AddModelRows(const DaemonConfig& config, Rows& rows) {
  if (config.models.empty()) rows.push_back({"model", "none at the start"});
  for (const v1::LoadModelRequest& model : config.models) {
    rows.push_back({"model", model.model().empty() ? Source(model) : model.model() + " = " + Source(model)});
  }
  rows.push_back({"model root", config.model_root.empty() ? "none: LoadModel takes no path (--model-root)"
                                                          : config.model_root.string()});
}

void AddLimitRows(const ServeConfig& config, Rows& rows) {
  const DaemonConfig& daemon = config.daemon;
  rows.push_back({"limits", fmt::format("queue {} requests a model, message {}, {} calls a connection, drain {}",
                                        daemon.max_queue_size, HumanBytes(daemon.max_message_bytes),
                                        daemon.max_concurrent_streams, absl::FormatDuration(daemon.drain_timeout))});
  const std::string threads = config.threads == 0 ? "all cores" : fmt::format("{}", config.threads);
  rows.push_back({"threads", fmt::format("{} for one operation, {} for tokenizing", threads, NumWorkers(daemon))});
}

void PrintBanner(const ServeConfig& config, const DaemonAddresses& addresses, Terminal& terminal) {
  const bool open = IsOpen(addresses.listen);
  Rows rows = {{"gRPC", addresses.listen + (open ? "  without LoadModel and UnloadModel" : "  all services")}};
  if (!addresses.admin_listen.empty()) rows.push_back({"admin", addresses.admin_listen + "  all services"});
  rows.push_back(
      {"HTTP", addresses.http_listen.empty() ? "off" : addresses.http_listen + "  /metrics /healthz /readyz"});
  AddModelRows(config.daemon, rows);
  AddLimitRows(config, rows);
  terminal.out << terminal.Bold("automodeld " + Version()) << "\n" << Table(rows);
  for (const std::string& line : Unprotected(addresses)) terminal.out << terminal.Red("unprotected  " + line) << "\n";
  terminal.out << std::flush;
}

class Serve {
 public:
  Serve(CLI::App& command, CommandLine& line) : program_(line.program), terminal_(line.terminal) {
    for (const Option& option : ServeOptions()) flags_[option.flag] = AddFlag(command, option);
  }

  int Run() {
    FlagValues values;
    for (const auto& [flag, option] : flags_) {
      if (option->count() > 0) values[flag] = option->results();
    }
    const auto config = ReadServeConfig(values, program_.environment);
    if (!config.ok()) return Misused(terminal_, std::string(config.status().message()));
    SetUpLogging(config->log, terminal_);
    program_.set_num_threads(config->threads);
    KeepFreedMemory();
    if (const absl::Status status = LoadOpLibraries(config->op_libraries); !status.ok()) return Fail(terminal_, status);
    return Start(*config);
  }

 private:
  int Start(ServeConfig config) {
    ProgressBar bar(terminal_);
    std::latch banner(1);  // the bar comes after it
    config.daemon.progress = [&](const LoadProgress& progress) {
      banner.wait();
      if (progress.phase.empty()) return bar.Clear();
      bar.Show(progress.phase, progress.done_bytes, progress.total_bytes, progress.seconds);
    };
    auto daemon = Daemon::Start(config.daemon, program_.load);
    if (!daemon.ok()) return Refused(daemon.status());
    PrintBanner(config, (*daemon)->addresses(), terminal_);
    banner.count_down();
    const absl::Status status = (*daemon)->Run();
    bar.Clear();
    if (!status.ok()) return Fail(terminal_, status);
    spdlog::info("drained");
    return kExitOk;
  }

  // An option that only listening can judge is misuse as any other.
  int Refused(const absl::Status& status) {
    const bool misused = absl::IsInvalidArgument(status);
    return misused ? Misused(terminal_, std::string(status.message())) : Fail(terminal_, status);
  }

  const Program& program_;
  Terminal& terminal_;
  std::map<std::string, CLI::Option*> flags_;
};

}  // namespace

void AddServe(CommandLine& line) {
  AddCommand<Serve>(line, "serve",
                    "Runs the daemon. Each option is a flag, (an environment variable, a key in --config)");
}

}  // namespace automodeld
