// The command line of automodeld: `serve`, and the commands that talk to a daemon as any client would.
//
//   Program program{{"generate", "llama", "Hello"}, environment, AutoModel::Load, SetNumThreads};
//   return RunProgram(program, terminal);
//
// What a command is asked for goes to stdout, what it has to say besides to stderr. Exit codes are those below.
#ifndef SERVER_CLI_H_
#define SERVER_CLI_H_

#include <functional>
#include <string>
#include <vector>

#include "core/auto_model.h"
#include "server/terminal.h"

namespace automodeld {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitMisused = 2;        // the command line is wrong
inline constexpr int kExitInterrupted = 130;  // Ctrl-C

struct Program {
  std::vector<std::string> arguments;  // without the program's name
  Environment environment;
  LoadFunction load;                         // for serve and check
  std::function<void(int)> set_num_threads;  // of libtorch; called before `load`
};

// Parses and runs; returns the exit code.
int RunProgram(const Program& program, Terminal& terminal);

}  // namespace automodeld

#endif  // SERVER_CLI_H_
