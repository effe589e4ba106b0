#include "server/model_path.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_replace.h"
#include "core/file.h"
#include "core/status.h"

namespace automodeld {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxPathBytes = 4096;
constexpr int kMaxFiles = 10'000;  // in one checkpoint folder
constexpr uint64_t kMaxCommitBytes = 200;

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

// The real path of `relative`; `shown` names it in the error.
absl::StatusOr<fs::path> Beneath(const fs::path& root, const fs::path& relative, const std::string& shown) {
  std::error_code error;
  fs::path real = fs::weakly_canonical(root / relative, error);
  if (error || !IsBeneath(root, real)) return Escapes(shown);
  return real;
}

std::string RevisionsIn(const fs::path& repository) {
  std::vector<std::string> names;
  std::error_code error;
  const fs::path refs = repository / "refs";
  for (fs::recursive_directory_iterator ref(refs, error), end; !error && ref != end; ref.increment(error)) {
    if (ref->is_regular_file(error)) names.push_back(ref->path().lexically_relative(refs).string());
  }
  std::ranges::sort(names);
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "));
}

// The commit that a branch or tag stands for; `revision` itself where it is no name, because it may be a commit.
absl::StatusOr<std::string> CommitOf(const fs::path& repository, const std::string& revision) {
  std::error_code error;
  const fs::path refs = repository / "refs", ref = fs::weakly_canonical(refs / revision, error);
  if (error || !IsBeneath(refs, ref)) {
    return absl::InvalidArgumentError(fmt::format("revision: '{}' leads out of the model's cache", revision));
  }
  if (!fs::is_regular_file(ref, error)) return revision;
  absl::StatusOr<std::string> commit = ReadText(ref.parent_path().string(), ref.filename().string(), kMaxCommitBytes);
  if (!commit.ok()) return absl::NotFoundError(fmt::format("revision: '{}' cannot be read", revision));
  return std::string(absl::StripAsciiWhitespace(*commit));
}

absl::StatusOr<fs::path> CachedSnapshot(const fs::path& root, const std::string& id, const std::string& revision) {
  const std::string name = "models--" + absl::StrReplaceAll(id, {{"/", "--"}});
  std::error_code error;
  ASSIGN_OR_RETURN(const fs::path repository, Beneath(root, name, id));
  if (!fs::is_directory(repository, error)) {
    return absl::NotFoundError(
        fmt::format("path: beneath --model-root there is neither a folder nor a cached Hub model '{}'", id));
  }
  ASSIGN_OR_RETURN(const std::string commit, CommitOf(repository, revision));
  const bool is_name = IsBareName(commit);
  if (is_name && fs::is_directory(repository / "snapshots" / commit, error)) {
    return Beneath(root, repository / "snapshots" / commit, id);
  }
  return absl::NotFoundError(
      fmt::format("revision: '{}' of '{}' is not in the cache; there are: {}", revision, id, RevisionsIn(repository)));
}

}  // namespace

absl::StatusOr<fs::path> ResolveModelPath(const fs::path& root, const std::string& path, const std::string& revision) {
  RETURN_IF_ERROR(CheckText(path));
  if (root.empty()) return absl::FailedPreconditionError("path: the daemon was started without --model-root");
  std::error_code error;
  const fs::path real_root = fs::canonical(root, error);
  if (error) return absl::FailedPreconditionError("path: --model-root is no folder");
  ASSIGN_OR_RETURN(fs::path folder, Beneath(real_root, path, path));
  const bool is_folder = fs::is_directory(folder, error);
  if (is_folder && !revision.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("revision: '{}' is a folder, not the id of a cached Hub model", path));
  }
  if (!is_folder) {
    ASSIGN_OR_RETURN(folder, CachedSnapshot(real_root, path, revision.empty() ? "main" : revision));
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
