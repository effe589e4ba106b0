// What is thrown (no memory, no thread to be had), as a Status: where calls and loads begin.
//
//   absl::Status status = Guarded([&] { return call->Admit(*request); });
//
// libtorch's own exceptions are turned into a Status further down, by core/exception_torch.h. Torch-free.
#ifndef CORE_GUARDED_H_
#define CORE_GUARDED_H_

#include <absl/status/status.h>
#include <fmt/format.h>

#include <exception>
#include <new>

namespace automodeld {

// What `work` gives, a Status or a StatusOr; what it throws becomes RESOURCE_EXHAUSTED (no memory) or INTERNAL.
template <typename Work>
auto Guarded(const Work& work) -> decltype(work()) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& error) {
    return absl::InternalError(fmt::format("unexpected: {}", error.what()));
  }
}

}  // namespace automodeld

#endif  // CORE_GUARDED_H_
