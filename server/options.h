// Every option of `automodeld serve`, once: the table that flags, environment, file, --help and docs/options.md share.
//
//   ASSIGN_OR_RETURN(ServeConfig config, ReadServeConfig({{"--max-queue-size", {"64"}}}, environment));
//
// A flag wins over the environment, that over the file (--config), that over the default; a list is taken whole from
// the first that has it. Errors are INVALID_ARGUMENT and name the value as its writer did:
//   --max-queue-size: 0 is outside 1..65536
//   AUTOMODELD_MAX_QUEUE_SIZE: "many" is not a whole number in 1..65536
//   daemon.yaml: max_queue_siz: unknown key; did you mean "max_queue_size"?
#ifndef SERVER_OPTIONS_H_
#define SERVER_OPTIONS_H_

#include <absl/status/statusor.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "server/daemon.h"
#include "server/logging.h"
#include "server/terminal.h"

namespace automodeld {

// The variables of the commands that talk to a daemon; `serve` leaves them alone.
inline constexpr char kServerVariable[] = "AUTOMODELD_SERVER";
inline constexpr char kTimeoutVariable[] = "AUTOMODELD_TIMEOUT";

// All that `serve` is told.
struct ServeConfig {
  DaemonConfig daemon;
  LogOptions log;
  std::vector<std::string> op_libraries;  // loaded before any model
  int threads = 0;                        // of libtorch within one operation; 0: as many as there are cores
};

// A row of the table.
struct Option {
  std::string flag;           // --max-queue-size
  std::string environment;    // AUTOMODELD_MAX_QUEUE_SIZE
  std::string key;            // max_queue_size; empty: not in the file
  std::string value;          // what stands for the value in --help, such as NUMBER; empty: a switch
  std::string default_value;  // as one would write it; empty: none
  std::string range;          // 1..65536; auto, text or json; may be empty
  std::string help;           // a sentence
  bool repeatable = false;    // the flag; the environment variable then separates by commas, the file has a list
  // Checks and sets. Messages begin with `name`, the value's name where it was given. A switch gets "true" or "false".
  std::function<absl::Status(const std::string& name, const std::vector<std::string>& values, ServeConfig& config)> set;
};

// In the order of --help. Its first row is --config.
const std::vector<Option>& ServeOptions();

// By flag, what the command line holds; flags that are not there are absent.
using FlagValues = std::map<std::string, std::vector<std::string>>;

// Reads the file that --config or AUTOMODELD_CONFIG names, if any. Unknown keys and unknown AUTOMODELD_* variables are
// errors; the client's two, and those that Kubernetes makes for a service named automodeld (AUTOMODELD_SERVICE_HOST,
// AUTOMODELD_PORT=tcp://…), are left alone.
absl::StatusOr<ServeConfig> ReadServeConfig(const FlagValues& flags, const Environment& environment);

// docs/options.md.
std::string OptionsMarkdown();

}  // namespace automodeld

#endif  // SERVER_OPTIONS_H_
