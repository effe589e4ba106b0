// The log of the process, on stderr: text for people, or one JSON object a line for machines.
//
//   SetUpLogging({.level = "info", .format = "auto"}, terminal);
//   spdlog::warn("model {}: no flash attention, using sdpa", name);
//
//   {"time":"2026-11-23T19:07:39.123Z","level":"warning","message":"model llama: no flash attention, using sdpa"}
//
// Call once, before other threads log. gRPC's own messages go the same way.
#ifndef SERVER_LOGGING_H_
#define SERVER_LOGGING_H_

#include <spdlog/formatter.h>

#include <memory>
#include <string>

#include "server/terminal.h"

namespace automodeld {

struct LogOptions {
  std::string level = "info";   // trace, debug, info, warning, error, off
  std::string format = "auto";  // text, json; auto: text if stderr is a terminal
};

// `terminal` says whether stderr is one and takes colours.
void SetUpLogging(const LogOptions& options, const Terminal& terminal);

// Whatever the message holds, the line is one line, and moves no cursor: control characters become \n, \x1b and so on.
std::unique_ptr<spdlog::formatter> TextLogFormatter();

// Whatever the message holds, the line is one valid JSON object: control characters are escaped, and bytes that are
// not UTF-8 become U+FFFD.
std::unique_ptr<spdlog::formatter> JsonLogFormatter();

}  // namespace automodeld

#endif  // SERVER_LOGGING_H_
