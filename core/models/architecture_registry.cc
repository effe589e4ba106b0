#include <algorithm>
#include <deque>
#include <utility>

#include "core/models/architecture.h"

namespace automodeld {

namespace {

// A function's own, because rows are registered while other files' constants are made; a deque, so that rows stay put.
std::deque<Architecture>& Rows() {
  static std::deque<Architecture> rows;
  return rows;
}

bool Serves(const Architecture& row, AutoClass auto_class) {
  return auto_class == AutoClass::kAuto || std::ranges::find(row.classes, auto_class) != row.classes.end();
}

}  // namespace

bool RegisterArchitectures(std::vector<Architecture> rows) {
  for (Architecture& row : rows) Rows().push_back(std::move(row));
  return true;
}

const Architecture* FindArchitecture(const std::string& name) {
  const auto found = std::ranges::find(Rows(), name, &Architecture::name);
  return found == Rows().end() ? nullptr : &*found;
}

const Architecture* FindArchitecture(const std::string& model_type, AutoClass auto_class) {
  const auto found = std::ranges::find_if(
      Rows(), [&](const Architecture& row) { return row.model_type == model_type && Serves(row, auto_class); });
  return found == Rows().end() ? nullptr : &*found;
}

std::vector<std::string> ArchitectureNames() {
  std::vector<std::string> names;
  for (const Architecture& row : Rows()) names.push_back(row.name);
  std::ranges::sort(names);
  return names;
}

}  // namespace automodeld
