#include "core/exception_torch.h"

#include <c10/util/Exception.h>

#include <new>
#include <string>

#include "core/listing.h"

namespace automodeld {

namespace {

std::string Message(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  return FirstLine(torch_error != nullptr ? torch_error->what_without_backtrace() : error.what());
}

bool IsOutOfMemory(const std::exception& error) {
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) return true;
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return true;
  // libtorch's allocator for the CPU throws a plain c10::Error.
  return std::string(error.what()).find("can't allocate memory") != std::string::npos;
}

}  // namespace

absl::Status StatusOfException(const std::exception& error) {
  if (IsOutOfMemory(error)) return absl::ResourceExhaustedError("out of memory: " + Message(error));
  return absl::InternalError(Message(error));
}

}  // namespace automodeld
