// A checkpoint's files: opened by folder and bare name, read at an offset into the caller's memory.
//
//   ASSIGN_OR_RETURN(File file, File::Open(folder, "model.safetensors"));
//   RETURN_IF_ERROR(file.Read(offset, bytes));                            // all of them, or an error
//   ASSIGN_OR_RETURN(std::string text, ReadText(folder, "config.json", 16 << 20));
//
// Files are read, never mapped: one that shrinks meanwhile is an error and not a signal. Messages hold the bare name.
// Threads: Read from any. Torch-free.
#ifndef CORE_FILE_H_
#define CORE_FILE_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>

namespace automodeld {

class File {
 public:
  // NOT_FOUND: no such file. FAILED_PRECONDITION: not a plain file, or it cannot be opened.
  static absl::StatusOr<File> Open(const std::string& folder, const std::string& name);
  File(File&& other) noexcept
      : name_(std::move(other.name_)), descriptor_(std::exchange(other.descriptor_, -1)), size_(other.size_) {}
  File& operator=(File&& other) noexcept;
  ~File();

  const std::string& name() const { return name_; }
  uint64_t size() const { return size_; }  // bytes, when it was opened

  // Fills `out` from `offset` on. FAILED_PRECONDITION: the file ends before, or cannot be read.
  absl::Status Read(uint64_t offset, std::span<std::byte> out) const;
  // The same, large pieces by several threads at once: from the page cache one thread alone is slower than the memory.
  absl::Status ReadParallel(uint64_t offset, std::span<std::byte> out) const;

 private:
  File(std::string name, int descriptor, uint64_t size)
      : name_(std::move(name)), descriptor_(descriptor), size_(size) {}

  std::string name_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

// Runs `part` on a few parts of [0, size), cut at multiples of 4096, by a thread each where that pays; the first error.
absl::Status InParts(uint64_t size, const std::function<absl::Status(uint64_t begin, uint64_t end)>& part);

// A whole file. FAILED_PRECONDITION: larger than `max_bytes`, or File's errors.
absl::StatusOr<std::string> ReadText(const std::string& folder, const std::string& name, uint64_t max_bytes);

// Whether `name` is a plain file's name: not empty, no slash, no zero byte, not "." or "..".
bool IsBareName(const std::string& name);

}  // namespace automodeld

#endif  // CORE_FILE_H_
