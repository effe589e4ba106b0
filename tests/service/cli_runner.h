// Runs a command of the command line in this process.
//
//   CliResult result = RunCli({"models", "--server", daemon.daemon().addresses().listen});
//   EXPECT_EQ(result.code, 0) << result.err;
#ifndef TESTS_SERVICE_CLI_RUNNER_H_
#define TESTS_SERVICE_CLI_RUNNER_H_

#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "server/cli.h"

namespace automodeld {

struct CliResult {
  int code = 0;
  std::string out;
  std::string err;
};

struct CliWorld {
  std::string in{};
  Environment environment{};
  LoadFunction load = nullptr;  // of check and serve
  bool terminal = false;        // whether out and err are one
};

inline CliResult RunCli(std::vector<std::string> arguments, const CliWorld& world = {}) {
  std::istringstream in(world.in);
  std::ostringstream out;
  std::ostringstream err;
  Terminal terminal{in, out, err, world.terminal, world.terminal, world.terminal};
  const int code = RunProgram({std::move(arguments), world.environment, world.load, [](int) {}}, terminal);
  return {code, out.str(), err.str()};
}

}  // namespace automodeld

#endif  // TESTS_SERVICE_CLI_RUNNER_H_
