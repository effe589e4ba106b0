#include "server/options.h"

#include <absl/strings/match.h>
#include <absl/strings/str_split.h>
#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>

#include "core/status.h"
#include "server/nearest.h"
#include "server/options_file.h"

namespace automodeld {
namespace {

// Made by Kubernetes in every pod beside a service whose name begins with "automodeld". A plain AUTOMODELD_PORT=50051
// is a mistake of the person who wrote it.
bool IsServiceLink(const std::string& name, const std::string& value) {
  static const re2::RE2 names(
      "AUTOMODELD_(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)");
  static const re2::RE2 port("AUTOMODELD_(.*_)?PORT");
  static const re2::RE2 url("(tcp|udp|sctp)://.*");
  return re2::RE2::FullMatch(name, names) || (re2::RE2::FullMatch(name, port) && re2::RE2::FullMatch(value, url));
}

std::vector<std::string> EnvironmentNames() {
  std::vector<std::string> names = {kServerVariable, kTimeoutVariable};
  for (const Option& option : ServeOptions()) names.push_back(option.environment);
  return names;
}

std::vector<std::string> Keys() {
  std::vector<std::string> keys;
  for (const Option& option : ServeOptions()) {
    if (!option.key.empty()) keys.push_back(option.key);
  }
  return keys;
}

bool Contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

absl::Status CheckEnvironment(const Environment& environment) {
  const std::vector<std::string> known = EnvironmentNames();
  for (const auto& [name, value] : environment) {
    if (!absl::StartsWith(name, "AUTOMODELD_") || Contains(known, name) || IsServiceLink(name, value)) continue;
    return absl::InvalidArgumentError(fmt::format("{}: unknown variable{}", name, DidYouMean(name, known)));
  }
  return absl::OkStatus();
}

absl::Status CheckKeys(const OptionsFile& file) {
  const std::vector<std::string> known = Keys();
  for (const auto& [key, value] : file.values) {
    if (Contains(known, key)) continue;
    return absl::InvalidArgumentError(fmt::format("{}: unknown key{}", key, DidYouMean(key, known)));
  }
  return absl::OkStatus();
}

std::optional<std::vector<std::string>> FromEnvironment(const Option& option, const Environment& environment) {
  const auto found = environment.find(option.environment);
  if (found == environment.end()) return std::nullopt;
  if (!option.repeatable) return {{found->second}};
  return absl::StrSplit(found->second, ',', absl::SkipWhitespace());
}

absl::StatusOr<std::string> ReadFile(const std::string& name, const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (!stream.bad() && stream.is_open() && !stream.fail()) return text;
  return absl::InvalidArgumentError(fmt::format("{}: \"{}\" cannot be read: {}", name, path, std::strerror(errno)));
}

// Where values come from, the first that has one wins.
struct Sources {
  const FlagValues& flags;
  const Environment& environment;
  std::string path{};  // of the file
  OptionsFile file{};
};

absl::Status ReadOptionsFile(Sources& sources) {
  const Option& config = ServeOptions().front();
  const auto flag = sources.flags.find(config.flag);
  const auto variable = sources.environment.find(config.environment);
  if (flag == sources.flags.end() && variable == sources.environment.end()) return absl::OkStatus();
  const bool from_flag = flag != sources.flags.end();
  sources.path = from_flag ? flag->second.back() : variable->second;
  ASSIGN_OR_RETURN(const std::string yaml, ReadFile(from_flag ? config.flag : config.environment, sources.path));
  absl::StatusOr<OptionsFile> file = ParseOptionsFile(yaml);
  RETURN_IF_ERROR(Prefixed(sources.path + ": ", file.status()));
  sources.file = *std::move(file);
  return Prefixed(sources.path + ": ", CheckKeys(sources.file));
}

absl::Status SetOption(const Option& option, const Sources& sources, ServeConfig& config) {
  if (const auto flag = sources.flags.find(option.flag); flag != sources.flags.end()) {
    return option.set(option.flag, flag->second, config);
  }
  if (const auto values = FromEnvironment(option, sources.environment)) {
    return option.set(option.environment, *values, config);
  }
  if (option.key == "models") config.daemon.models = sources.file.models;
  const auto value = sources.file.values.find(option.key);
  if (value == sources.file.values.end()) return absl::OkStatus();
  if (value->second.size() != 1 && !option.repeatable) {
    return absl::InvalidArgumentError(fmt::format("{}: {}: must be a single value", sources.path, option.key));
  }
  return Prefixed(sources.path + ": ", option.set(option.key, value->second, config));
}

// Where the option's value was written, as messages name it.
std::string GivenAs(const Option& option, const Sources& sources) {
  if (sources.flags.count(option.flag) > 0) return option.flag;
  if (sources.environment.count(option.environment) > 0) return option.environment;
  return sources.path + ": " + option.key;
}

absl::Status CheckModelNames(const std::string& given_as, const std::vector<v1::LoadModelRequest>& models) {
  std::set<std::string> names;
  for (const v1::LoadModelRequest& model : models) {
    if (!model.model().empty() && !names.insert(model.model()).second) {
      return absl::InvalidArgumentError(fmt::format("{}: the name \"{}\" is given twice", given_as, model.model()));
    }
  }
  return absl::OkStatus();
}

std::string Cell(const std::string& text, const char* quote) {
  return text.empty() ? "" : fmt::format("{}{}{}", quote, text, quote);
}

}  // namespace

absl::StatusOr<ServeConfig> ReadServeConfig(const FlagValues& flags, const Environment& environment) {
  RETURN_IF_ERROR(CheckEnvironment(environment));
  Sources sources{flags, environment};
  RETURN_IF_ERROR(ReadOptionsFile(sources));
  ServeConfig config;
  for (const Option& option : ServeOptions()) {
    RETURN_IF_ERROR(SetOption(option, sources, config));
    if (option.key == "models") RETURN_IF_ERROR(CheckModelNames(GivenAs(option, sources), config.daemon.models));
  }
  return config;
}

std::string OptionsMarkdown() {
  std::string text =
      "# Options of `automodeld serve`\n\n"
      "A flag wins over the environment variable, that over the key in the YAML file (`--config`), that over the\n"
      "default. Unknown keys, unknown `AUTOMODELD_*` variables and values outside their range are errors.\n\n"
      "| Flag | Environment | File key | Default | Range | What it does |\n"
      "| --- | --- | --- | --- | --- | --- |\n";
  for (const Option& option : ServeOptions()) {
    const std::string flag = option.value.empty() ? option.flag : option.flag + " " + option.value;
    text += fmt::format("| {} | {} | {} | {} | {} | {}{} |\n", Cell(flag, "`"), Cell(option.environment, "`"),
                        Cell(option.key, "`"), Cell(option.default_value, "`"), option.range, option.help,
                        option.repeatable ? " Repeatable; the variable separates by commas." : "");
  }
  return text;
}

}  // namespace automodeld
