#include <unistd.h>

#include <cstring>
#include <string>

#include "core/auto_model.h"
#include "core/runtime.h"
#include "server/cli.h"

namespace {

automodeld::Environment ReadEnvironment() {
  automodeld::Environment environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    char* equals = std::strchr(*entry, '=');
    if (equals != nullptr) environment.emplace(std::string(*entry, equals), equals + 1);
  }
  return environment;
}

}  // namespace

int main(int argc, char** argv) {
  const automodeld::Program program{.arguments = {argv + 1, argv + argc},
                                    .environment = ReadEnvironment(),
                                    .load = automodeld::AutoModel::Load,
                                    .set_num_threads = automodeld::SetNumThreads};
  automodeld::Terminal terminal = automodeld::Terminal::OfProcess(program.environment);
  return automodeld::RunProgram(program, terminal);
}
