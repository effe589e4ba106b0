#include "server/cli.h"

#include <absl/strings/match.h>
#include <absl/strings/str_replace.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "core/version.h"
#include "server/cli_command.h"
#include "server/logging.h"
#include "server/nearest.h"

namespace automodeld {
namespace {

void AddAll(CommandLine& line) {
  AddServe(line);
  AddLoad(line);
  AddUnload(line);
  AddModels(line);
  AddGenerate(line);
  AddEmbed(line);
  AddHealth(line);
  AddBench(line);
  AddCheck(line);
}

// The command that the arguments name, or the whole program.
const CLI::App& Selected(const CLI::App& app, const std::vector<std::string>& arguments) {
  const auto named = [&](const CLI::App* command) { return !arguments.empty() && command->check_name(arguments[0]); };
  for (const CLI::App* command : app.get_subcommands(named)) return *command;
  return app;
}

std::vector<std::string> FlagsOf(const CLI::App& app) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  return flags;
}

std::vector<std::string> CommandsOf(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  return names;
}

// Field names are written with underscores elsewhere: --torch_dtype is --torch-dtype.
std::vector<std::string> WithDashes(std::vector<std::string> arguments, const CLI::App& app) {
  const std::vector<std::string> known = FlagsOf(Selected(app, arguments));
  for (std::string& argument : arguments) {
    if (argument == "--") break;
    const size_t end = std::min(argument.find('='), argument.size());
    const std::string name = absl::StrReplaceAll(argument.substr(0, end), {{"_", "-"}});
    if (std::find(known.begin(), known.end(), name) != known.end()) argument.replace(0, end, name);
  }
  return arguments;
}

// What nobody expected, with what was probably meant.
std::string Unexpected(const CLI::App& app, const std::vector<std::string>& arguments) {
  const CLI::App& command = Selected(app, arguments);
  const std::vector<std::string> extras = app.remaining(true);
  const bool no_command = &command == &app;
  const std::string text = no_command || extras.empty() ? arguments.front() : extras.front();
  const std::string extra = text.substr(0, text.find('='));
  const bool flag = absl::StartsWith(extra, "-");
  const std::string hint = DidYouMean(extra, flag || !no_command ? FlagsOf(command) : CommandsOf(app));
  return fmt::format("{}: not {}{}", extra, flag ? "a flag of this command" : "expected here", hint);
}

// CLI11 asks for a command before it says that it does not know the one that is there.
bool IsUnexpected(const CommandLine& line, const CLI::ParseError& error) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError)) return true;
  const std::vector<std::string>& arguments = line.program.arguments;
  return !arguments.empty() && &Selected(line.app, arguments) == &line.app;
}

int ParseFailed(CommandLine& line, const CLI::ParseError& error) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    line.app.exit(error, line.terminal.out, line.terminal.err);
    return kExitOk;
  }
  const std::string what = IsUnexpected(line, error) ? Unexpected(line.app, line.program.arguments) : error.what();
  return Misused(line.terminal, what + " (--help shows what there is)");
}

}  // namespace

int RunProgram(const Program& program, Terminal& terminal) {
  CLI::App app("Serves Hugging Face checkpoints over gRPC.", "automodeld");
  app.set_version_flag("--version", Version());
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  CommandLine line{app, program, terminal, nullptr};
  AddAll(line);
  try {
    std::vector<std::string> arguments = WithDashes(program.arguments, app);
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    return ParseFailed(line, error);
  }
  return line.run();
}

}  // namespace automodeld
