#include "core/listing.h"

#include <absl/strings/str_join.h>
#include <fmt/format.h>

namespace automodeld {

namespace {

constexpr size_t kMostListedBytes = 512 << 10;
constexpr size_t kMostNameBytes = 200;

}  // namespace

std::string Shortened(const std::string& name) {
  if (name.size() <= kMostNameBytes) return name;
  size_t end = kMostNameBytes;
  while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xC0U) == 0x80U) --end;
  return name.substr(0, end) + "...";
}

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

std::string Listed(const std::vector<std::string>& names) {
  std::vector<std::string> shown;
  size_t bytes = 0;
  for (const std::string& name : names) {
    if (bytes > kMostListedBytes) break;
    shown.push_back(Shortened(name));
    bytes += shown.back().size();
  }
  std::string text = absl::StrJoin(shown, ", ");
  if (names.size() > shown.size()) text += fmt::format(", and {} more", names.size() - shown.size());
  return text;
}

}  // namespace automodeld
