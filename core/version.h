// The version that `automodeld --version`, GetModel and the build_info metric report.
#pragma once

#include <string>

namespace automodeld {

// "0.1.0+0123456789ab": the release, then the commit it was built from. Without git at build time: "0.1.0".
const std::string& Version();

}  // namespace automodeld
