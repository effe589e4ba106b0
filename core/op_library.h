// Shared libraries of operations, which --op-library of `serve` and `check` names.
//
//   RETURN_IF_ERROR(LoadOpLibrary("/opt/mycorp/libmycorp_ops.so"));  // its TORCH_LIBRARY blocks have run
//
// Such a library runs in this process with all its rights: the operator vouches for it. Torch-free.
#ifndef CORE_OP_LIBRARY_H_
#define CORE_OP_LIBRARY_H_

#include <absl/status/status.h>

#include <string>
#include <vector>

namespace automodeld {

// Loads the library for the rest of the process's life; the same one again changes nothing. A child process loads it
// first: what it does when it is loaded, it does twice. Before any other thread runs.
//   FAILED_PRECONDITION  the file's bare name and why, if it cannot be loaded, throws or crashes:
//                        "libops.so: undefined symbol: mycorp_init"
absl::Status LoadOpLibrary(const std::string& path);

// All that --op-library names, in order; the message begins with the flag.
absl::Status LoadOpLibraries(const std::vector<std::string>& paths);

}  // namespace automodeld

#endif  // CORE_OP_LIBRARY_H_
