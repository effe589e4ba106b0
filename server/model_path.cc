#include "server/model_path.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_replace.h"
#include "core/status.h"

namespace automodeld {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxPathBytes = 4096;
constexpr int kMaxFiles = 10'000;  // in one checkpoint folder

// Both canonical.
bool IsBeneath(const fs::path& root, const fs::path& path) {
  return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
}

absl::Status Escapes(const std::string& path) {
  return absl::InvalidArgumentError(fmt::format("path: '{}' leads out of --model-root", path));
}

absl::Status LinkedFolder(const std::string& path) {
  return absl::InvalidArgumentError(fmt::format("path: '{}' holds a link to a folder", path));
}

absl::Status CheckText(const std::string& path) {
  if (!path.empty() && path.size() <= kMaxPathBytes && path.find('\0') == std::string::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("path: {} bytes is outside 1..{}, or holds a zero byte", path.size(), kMaxPathBytes));
}

// The files too may be links, as in a Hugging Face cache; they must end beneath the root as well.
absl::Status CheckLinks(const fs::path& root, const fs::path& folder, const std::string& path) {
  std::error_code error;
  int num_files = 0;
  for (fs::recursive_directory_iterator file(folder, error), end; !error && file != end; file.increment(error)) {
    if (++num_files > kMaxFiles) {
      return absl::InvalidArgumentError(fmt::format("path: '{}' holds more than {} files", path, kMaxFiles));
    }
    if (!file->is_symlink(error)) continue;
    const fs::path target = fs::weakly_canonical(file->path(), error);
    if (error || !IsBeneath(root, target)) return Escapes((fs::path(path) / file->path().filename()).string());
    if (fs::is_directory(target, error)) return LinkedFolder(path);  // what it links to is not walked
  }
  if (error) return absl::InvalidArgumentError(fmt::format("path: '{}' cannot be read: {}", path, error.message()));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<fs::path> ResolveModelPath(const fs::path& root, const std::string& path) {
  RETURN_IF_ERROR(CheckText(path));
  if (root.empty()) return absl::FailedPreconditionError("path: the daemon was started without --model-root");
  std::error_code error;
  const fs::path real_root = fs::canonical(root, error);
  if (error) return absl::FailedPreconditionError("path: --model-root is no folder");
  const fs::path folder = fs::weakly_canonical(real_root / path, error);
  if (error || !IsBeneath(real_root, folder)) return Escapes(path);
  if (!fs::is_directory(folder, error)) {
    return absl::NotFoundError(fmt::format("path: there is no folder '{}' beneath --model-root", path));
  }
  RETURN_IF_ERROR(CheckLinks(real_root, folder, path));
  return folder;
}

std::string WithoutRoot(std::string message, const fs::path& root) {
  std::error_code error;
  const std::string real_root = root.empty() ? "" : fs::canonical(root, error).string();
  if (error || real_root.size() < 2) return message;
  absl::StrReplaceAll({{real_root + "/", ""}, {real_root, "--model-root"}}, &message);
  return message;
}

}  // namespace automodeld
