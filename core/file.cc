#include "core/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <thread>
#include <vector>

#include "core/status.h"

namespace automodeld {

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kSmallestPart = 4 << 20;  // bytes a further thread is worth
constexpr uint64_t kMostThreads = 4;

absl::Status CannotRead(const std::string& name, int error) {
  const std::string reason = std::generic_category().message(error);
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(fmt::format("{}: no such file", name));
  return absl::FailedPreconditionError(fmt::format("{}: cannot be read: {}", name, reason));
}

uint64_t PartSize(uint64_t bytes) {
  const uint64_t cores = std::clamp<uint64_t>(std::thread::hardware_concurrency(), 1, kMostThreads);
  const uint64_t parts = std::clamp<uint64_t>(bytes / kSmallestPart, 1, cores);
  return (bytes / parts + kPage - 1) / kPage * kPage;
}

}  // namespace

absl::StatusOr<File> File::Open(const std::string& folder, const std::string& name) {
  // O_NONBLOCK: a named pipe in the folder must not hold the load forever.
  const int descriptor = open((folder + "/" + name).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return CannotRead(name, errno);
  File file(name, descriptor, 0);
  struct stat info {};
  if (fstat(descriptor, &info) != 0) return CannotRead(name, errno);
  if (!S_ISREG(info.st_mode)) return absl::FailedPreconditionError(fmt::format("{}: not a plain file", name));
  file.size_ = static_cast<uint64_t>(info.st_size);
  return file;
}

File& File::operator=(File&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status File::Read(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = pread(descriptor_, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return CannotRead(name_, errno);
    if (got == 0) {
      struct stat info {};
      if (fstat(descriptor_, &info) != 0) return CannotRead(name_, errno);
      return absl::FailedPreconditionError(
          fmt::format("{}: ends at byte {}, expected {}", name_, info.st_size, offset + out.size()));
    }
    offset += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

absl::Status File::ReadParallel(uint64_t offset, std::span<std::byte> out) const {
  return InParts(out.size(),
                 [&](uint64_t begin, uint64_t end) { return Read(offset + begin, out.subspan(begin, end - begin)); });
}

absl::Status InParts(uint64_t size, const std::function<absl::Status(uint64_t begin, uint64_t end)>& part) {
  const uint64_t step = PartSize(size);
  if (step >= size) return part(0, size);
  std::vector<absl::Status> results((size + step - 1) / step);
  {
    std::vector<std::jthread> threads;
    for (size_t i = 1; i < results.size(); ++i) {
      threads.emplace_back([&, i] { results[i] = part(i * step, std::min(size, (i + 1) * step)); });
    }
    results[0] = part(0, step);
  }
  for (const absl::Status& result : results) RETURN_IF_ERROR(result);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadText(const std::string& folder, const std::string& name, uint64_t max_bytes) {
  ASSIGN_OR_RETURN(const File file, File::Open(folder, name));
  if (file.size() > max_bytes) {
    return absl::FailedPreconditionError(fmt::format("{}: {} bytes is outside 0..{}", name, file.size(), max_bytes));
  }
  std::string text(file.size(), '\0');
  RETURN_IF_ERROR(file.Read(0, std::as_writable_bytes(std::span(text))));
  return text;
}

bool IsBareName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

}  // namespace automodeld
