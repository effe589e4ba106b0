#include "core/engine/stop_finder.h"

#include <algorithm>
#include <utility>

namespace automodeld {

StopFinder::StopFinder(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::string StopFinder::Push(std::string_view text) {
  if (found_) return "";
  if (stops_.empty()) return std::string(text);
  held_ += text;
  const size_t stop = FindStop();
  found_ = stop != std::string::npos;
  std::string certain = held_.substr(0, found_ ? stop : held_.size() - HeldLength());
  held_.erase(0, found_ ? std::string::npos : certain.size());
  return certain;
}

std::string StopFinder::Flush() { return std::exchange(held_, ""); }

size_t StopFinder::FindStop() const {
  size_t begin = std::string::npos;
  size_t end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t found = held_.find(stop);
    if (found == std::string::npos) continue;
    const size_t found_end = found + stop.size();
    if (found_end < end || (found_end == end && found < begin)) {
      begin = found;
      end = found_end;
    }
  }
  return begin;
}

// The longest end of held_ that is a beginning of a stop string.
size_t StopFinder::HeldLength() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (size_t length = std::min(held_.size(), stop.size() - 1); length > longest; --length) {
      if (held_.ends_with(std::string_view(stop).substr(0, length))) longest = length;
    }
  }
  return longest;
}

}  // namespace automodeld
