// Crashes when it is loaded.
#include <csignal>

namespace {

[[maybe_unused]] const int crashed = std::raise(SIGSEGV);

}  // namespace
