// libtorch's exceptions as a Status: the one place where loading catches them.
//
//   return WithoutExceptions([&]() -> absl::StatusOr<LoadedModel> { ... });
#ifndef CORE_EXCEPTION_TORCH_H_
#define CORE_EXCEPTION_TORCH_H_

#include <absl/status/status.h>

#include <exception>
#include <utility>

namespace automodeld {

// RESOURCE_EXHAUSTED: no memory, on the host or the device. INTERNAL: the rest. Only the message's first line is kept:
// the others are a stack trace.
absl::Status StatusOfException(const std::exception& error);

template <typename Function>
auto WithoutExceptions(Function function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::exception& error) {
    return StatusOfException(error);
  }
}

}  // namespace automodeld

#endif  // CORE_EXCEPTION_TORCH_H_
