// Where a client may load models from: beneath --model-root and nowhere else.
//
//   ASSIGN_OR_RETURN(std::filesystem::path folder, ResolveModelPath("/srv/models", "llama/8b", ""));
//   ResolveModelPath("/srv/hub", "Qwen/Qwen3-0.6B", "main");  // .../snapshots/c1899de289a0...
//
// A Hub id is looked up in the layout of Hugging Face's cache: models--ORG--NAME/refs/REVISION holds the commit, and
// snapshots/COMMIT its files. Nothing is downloaded.
// No message holds a path of the machine; they repeat what the client wrote, or name the option.
#ifndef SERVER_MODEL_PATH_H_
#define SERVER_MODEL_PATH_H_

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"

namespace automodeld {

// The real folder that `path` (relative to `root`, or absolute and beneath it) names, or that of the cached Hub id
// `path` at `revision` (a branch, a tag or a commit; empty: main).
//   FAILED_PRECONDITION  `root` is empty or no folder
//   INVALID_ARGUMENT     `path` is empty, too long, holds a zero byte, or leads out of `root` by ".." or a link; or a
//                        file in the folder is a link that does; `revision` is given for a plain folder
//   NOT_FOUND            there is no such folder; no such revision: the message lists those that there are
absl::StatusOr<std::filesystem::path> ResolveModelPath(const std::filesystem::path& root, const std::string& path,
                                                       const std::string& revision);

// `message` without the path of the machine: whatever stands beneath `root` is named relative to it.
std::string WithoutRoot(std::string message, const std::filesystem::path& root);

}  // namespace automodeld

#endif  // SERVER_MODEL_PATH_H_
