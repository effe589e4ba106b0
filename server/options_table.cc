#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_replace.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "core/status.h"
#include "server/address.h"
#include "server/options.h"

namespace automodeld {
namespace {

// One value; the last one where a flag was repeated.
using SetOne = std::function<absl::Status(const std::string& name, const std::string& value, ServeConfig& config)>;

// The row for --`stem`, with the names that follow from it.
Option Row(const std::string& stem, std::string value, std::string default_value, std::string range, std::string help,
           SetOne set) {
  const std::string key = absl::StrReplaceAll(stem, {{"-", "_"}});
  Option option{"--" + stem,
                "AUTOMODELD_" + absl::AsciiStrToUpper(key),
                key,
                std::move(value),
                std::move(default_value),
                std::move(range),
                std::move(help),
                false,
                nullptr};
  option.set = [set = std::move(set)](const std::string& name, const std::vector<std::string>& values,
                                      ServeConfig& config) { return set(name, values.back(), config); };
  return option;
}

absl::Status Invalid(const std::string& name, const std::string& value, const std::string& what) {
  return absl::InvalidArgumentError(fmt::format("{}: \"{}\" is not {}", name, value, what));
}

absl::Status Outside(const std::string& name, const std::string& value, const std::string& range) {
  return absl::InvalidArgumentError(fmt::format("{}: {} is outside {}", name, value, range));
}

// `target(config)` is where the value goes; its default is what ServeConfig has.
template <typename Target>
Option Integer(const std::string& stem, Target target, int lo, int hi, std::string help) {
  ServeConfig defaults;
  const std::string range = fmt::format("{}..{}", lo, hi);
  const auto set = [=](const std::string& name, const std::string& value, ServeConfig& config) -> absl::Status {
    int64_t number = 0;
    if (!absl::SimpleAtoi(value, &number)) return Invalid(name, value, "a whole number in " + range);
    if (number < lo || number > hi) return Outside(name, value, range);
    target(config) = static_cast<int>(number);
    return absl::OkStatus();
  };
  return Row(stem, "NUMBER", fmt::format("{}", target(defaults)), range, std::move(help), set);
}

// "4194304", "4MiB"
bool ParseBytes(const std::string& text, int64_t* bytes) {
  constexpr std::pair<const char*, int> kUnits[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}};
  int shift = 0;
  std::string digits = text;
  for (const auto& [unit, unit_shift] : kUnits) {
    if (!text.ends_with(unit)) continue;
    digits = text.substr(0, text.size() - 3);
    shift = unit_shift;
  }
  if (!absl::SimpleAtoi(digits, bytes) || *bytes > (std::numeric_limits<int64_t>::max() >> shift)) return false;
  *bytes = *bytes < 0 ? *bytes : *bytes << shift;
  return true;
}

template <typename Target>
Option Bytes(const std::string& stem, Target target, const std::string& lo, const std::string& hi, std::string help) {
  ServeConfig defaults;
  const std::string range = lo + ".." + hi;
  const auto set = [=](const std::string& name, const std::string& value, ServeConfig& config) -> absl::Status {
    int64_t bytes = 0;
    int64_t least = 0;
    int64_t most = 0;
    if (!ParseBytes(value, &bytes)) return Invalid(name, value, "a number of bytes such as 33554432 or 32MiB");
    ParseBytes(lo, &least);
    ParseBytes(hi, &most);
    if (bytes < least || bytes > most) return Outside(name, value, range);
    target(config) = static_cast<int>(bytes);
    return absl::OkStatus();
  };
  return Row(stem, "BYTES", fmt::format("{}MiB", target(defaults) >> 20), range, std::move(help), set);
}

template <typename Target>
Option Duration(const std::string& stem, Target target, absl::Duration hi, std::string help) {
  ServeConfig defaults;
  const std::string range = "0s.." + absl::FormatDuration(hi);
  const auto set = [=](const std::string& name, const std::string& value, ServeConfig& config) -> absl::Status {
    absl::Duration duration;
    if (!absl::ParseDuration(value, &duration)) return Invalid(name, value, "a duration such as 45s or 1m30s");
    if (duration < absl::ZeroDuration() || duration > hi) return Outside(name, value, range);
    target(config) = duration;
    return absl::OkStatus();
  };
  return Row(stem, "DURATION", absl::FormatDuration(target(defaults)), range, std::move(help), set);
}

template <typename Target>
Option ListenAddress(const std::string& stem, Target target, bool may_be_empty, std::string help) {
  ServeConfig defaults;
  const auto set = [=](const std::string& name, const std::string& value, ServeConfig& config) -> absl::Status {
    if (!value.empty() || !may_be_empty) {
      if (const auto address = ParseAddress(value); !address.ok()) {
        return absl::InvalidArgumentError(fmt::format("{}: {}", name, std::string(address.status().message())));
      }
    }
    target(config) = value;
    return absl::OkStatus();
  };
  return Row(stem, "HOST:PORT", target(defaults), may_be_empty ? "host:port, or empty: off" : "host:port",
             std::move(help), set);
}

template <typename Target>
Option Choice(const std::string& stem, Target target, std::vector<std::string> allowed, std::string help) {
  ServeConfig defaults;
  const std::string range = fmt::format("{}", fmt::join(allowed, ", "));
  const auto set = [=](const std::string& name, const std::string& value, ServeConfig& config) -> absl::Status {
    if (std::find(allowed.begin(), allowed.end(), value) == allowed.end())
      return Invalid(name, value, "one of " + range);
    target(config) = value;
    return absl::OkStatus();
  };
  return Row(stem, "WORD", target(defaults), range, std::move(help), set);
}

Option Switch(const std::string& stem, bool DaemonConfig::*target, std::string help) {
  const auto set = [=](const std::string& name, const std::string& value, ServeConfig& config) -> absl::Status {
    if (value != "true" && value != "false") return Invalid(name, value, "one of true, false");
    config.daemon.*target = value == "true";
    return absl::OkStatus();
  };
  return Row(stem, "", "false", "true, false", std::move(help), set);
}

Option Config() {
  const auto set = [](const std::string&, const std::string&, ServeConfig&) { return absl::OkStatus(); };
  Option option = Row("config", "FILE", "", "", "YAML file that holds options by their file keys.", set);
  option.key.clear();
  return option;
}

absl::Status AddModel(const std::string& name, const std::string& text, ServeConfig& config) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) return Invalid(name, text, "NAME=PATH");
  v1::LoadModelRequest& model = config.daemon.models.emplace_back();
  model.set_model(text.substr(0, equals));
  model.set_path(text.substr(equals + 1));
  return absl::OkStatus();
}

Option Models() {
  Option option = Row("model", "NAME=PATH", "", "",
                      "Model to load at the start. In the file, `models` is a list whose items have the fields of "
                      "LoadModelRequest.",
                      nullptr);
  option.key = "models";
  option.repeatable = true;
  option.set = [](const std::string& name, const std::vector<std::string>& values, ServeConfig& config) {
    config.daemon.models.clear();
    for (const std::string& value : values) RETURN_IF_ERROR(AddModel(name, value, config));
    return absl::OkStatus();
  };
  return option;
}

Option ModelRoot() {
  const auto set = [](const std::string&, const std::string& value, ServeConfig& config) {
    config.daemon.model_root = value;
    return absl::OkStatus();
  };
  return Row("model-root", "FOLDER", "", "a folder, or empty: LoadModel takes no path",
             "Folder beneath which LoadModel finds checkpoints.", set);
}

Option OpLibraries() {
  Option option = Row("op-library", "FILE", "", "",
                      "Shared library whose operations models may use (op_overrides). It runs in the daemon with all "
                      "its rights.",
                      nullptr);
  option.repeatable = true;
  option.set = [](const std::string&, const std::vector<std::string>& values, ServeConfig& config) {
    config.op_libraries = values;
    return absl::OkStatus();
  };
  return option;
}

// A function from ServeConfig to the member, for the rows above.
#define FIELD(member) \
  [](ServeConfig & config) -> auto& { return config.member; }

std::vector<Option> AllOptions() {
  std::vector<Option> options;
  options.push_back(Config());
  options.push_back(
      ListenAddress("listen", FIELD(daemon.listen), false, "Address of the gRPC services. Port 0 takes a free one."));
  options.push_back(ListenAddress("admin-listen", FIELD(daemon.admin_listen), true,
                                  "Second address with all gRPC services; the only one that loads and unloads models "
                                  "if --listen is not loopback."));
  options.push_back(ListenAddress("http-listen", FIELD(daemon.http_listen), true,
                                  "Address of /metrics, /healthz and /readyz over HTTP."));
  options.push_back(Switch("insecure-listen", &DaemonConfig::insecure_listen,
                           "Allow addresses that are not loopback although nothing protects them."));
  options.push_back(Models());
  options.push_back(ModelRoot());
  options.push_back(OpLibraries());
  options.push_back(Duration("drain-timeout", FIELD(daemon.drain_timeout), absl::Hours(1),
                             "How long running calls may go on after SIGTERM."));
  options.push_back(Integer("max-queue-size", FIELD(daemon.max_queue_size), 1, 65536,
                            "Requests of a model that may wait; one more answers RESOURCE_EXHAUSTED."));
  options.push_back(Integer("max-concurrent-streams", FIELD(daemon.max_concurrent_streams), 1, 65536,
                            "Calls at a time per connection."));
  options.push_back(
      Bytes("max-message-bytes", FIELD(daemon.max_message_bytes), "64KiB", "1GiB", "Longest gRPC message."));
  options.push_back(Integer("worker-threads", FIELD(daemon.worker_threads), 0, 256,
                            "Threads for tokenizing and chat templates; 0: as many as there are cores, at most 16."));
  options.push_back(Integer("threads", FIELD(threads), 0, 1024,
                            "Threads of one operation on the CPU; 0: as many as there are cores."));
  options.push_back(Choice("log-level", FIELD(log.level), {"trace", "debug", "info", "warning", "error", "off"},
                           "Least severe messages that are logged."));
  options.push_back(Choice("log-format", FIELD(log.format), {"auto", "text", "json"},
                           "Form of the log on stderr; auto: text on a terminal, JSON lines otherwise."));
  return options;
}

#undef FIELD

}  // namespace

const std::vector<Option>& ServeOptions() {
  static const auto* const options = new std::vector<Option>(AllOptions());
  return *options;
}

}  // namespace automodeld
