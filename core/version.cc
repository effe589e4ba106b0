#include "core/version.h"

#include <string_view>

#include "commit.h"

namespace automodeld {

const std::string& Version() {
  static const std::string version = [] {
    constexpr std::string_view kCommit = AUTOMODELD_COMMIT;
    return kCommit.empty() ? std::string(AUTOMODELD_VERSION) : AUTOMODELD_VERSION "+" + std::string(kCommit);
  }();
  return version;
}

}  // namespace automodeld
