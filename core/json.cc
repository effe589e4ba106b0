#include "core/json.h"

#include <algorithm>

#include "core/file.h"
#include "core/status.h"

namespace automodeld {

namespace {

constexpr size_t kMostShown = 60;

// How deep the brackets outside of strings nest, found without recursion.
int NestingDepth(const std::string& text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJson(const std::string& text, const std::string& name) {
  if (text.size() > kMaxJsonBytes) {
    return absl::InvalidArgumentError(fmt::format("{}: {} bytes is outside 0..{}", name, text.size(), kMaxJsonBytes));
  }
  if (const int depth = NestingDepth(text); depth > kMaxJsonDepth) {
    return absl::InvalidArgumentError(fmt::format("{}: nesting of {} is outside 0..{}", name, depth, kMaxJsonDepth));
  }
  const bool has_zero = text.find('\0') != std::string::npos;  // which the parser takes for the end
  nlohmann::json value = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (has_zero || value.is_discarded()) return absl::InvalidArgumentError(fmt::format("{}: not valid JSON", name));
  return value;
}

absl::StatusOr<nlohmann::json> ReadJson(const std::string& folder, const std::string& name) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(folder, name, kMaxJsonBytes));
  return ParseJson(text, name);
}

std::string Shown(const nlohmann::json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  if (text.size() > kMostShown) text = text.substr(0, kMostShown) + "...";
  return text;
}

}  // namespace automodeld
