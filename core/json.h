// JSON from files and clients, within limits and without exceptions.
//
//   ASSIGN_OR_RETURN(nlohmann::json modules, ParseJson(text, "modules.json"));
//
// Torch-free.
#ifndef CORE_JSON_H_
#define CORE_JSON_H_

#include <absl/status/statusor.h>

#include <nlohmann/json.hpp>
#include <string>

namespace automodeld {

inline constexpr size_t kMaxJsonBytes = 16 << 20;
inline constexpr int kMaxJsonDepth = 64;

// INVALID_ARGUMENT: not JSON, nested deeper than kMaxJsonDepth, or larger than kMaxJsonBytes. Of equal keys the last
// counts. `name` stands before messages.
absl::StatusOr<nlohmann::json> ParseJson(const std::string& text, const std::string& name);

// ParseJson of a file. NOT_FOUND: no such file.
absl::StatusOr<nlohmann::json> ReadJson(const std::string& folder, const std::string& name);

// A value as it is written, cut to a length that fits into a message.
std::string Shown(const nlohmann::json& value);

}  // namespace automodeld

#endif  // CORE_JSON_H_
