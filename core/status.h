// Errors: absl::Status everywhere, and the two macros that pass them on.
//
//   ASSIGN_OR_RETURN(Config config, Config::Read(folder));
//   RETURN_IF_ERROR(config.Validate());
//
// Messages name field, value and range, never a path outside the checkpoint, an address or a client's text.
#ifndef CORE_STATUS_H_
#define CORE_STATUS_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <fmt/format.h>

#include <string>
#include <utility>

#define RETURN_IF_ERROR(expression)                                     \
  do {                                                                  \
    if (absl::Status status_macro = (expression); !status_macro.ok()) { \
      return status_macro;                                              \
    }                                                                   \
  } while (false)

#define AUTOMODELD_CONCAT_INNER(a, b) a##b
#define AUTOMODELD_CONCAT(a, b) AUTOMODELD_CONCAT_INNER(a, b)
#define ASSIGN_OR_RETURN(target, expression) \
  ASSIGN_OR_RETURN_AS(AUTOMODELD_CONCAT(status_or_, __LINE__), target, expression)
#define ASSIGN_OR_RETURN_AS(name, target, expression) \
  auto name = (expression);                           \
  if (!name.ok()) return std::move(name).status();    \
  target = *std::move(name)

namespace automodeld {

// The status with `prefix` put before its message; payloads are dropped. OK stays OK.
inline absl::Status Prefixed(const std::string& prefix, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), prefix + std::string(status.message()));
}

}  // namespace automodeld

#endif  // CORE_STATUS_H_
