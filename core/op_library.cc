#include "core/op_library.h"

#include <absl/strings/str_replace.h>
#include <dlfcn.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <system_error>

#include "core/listing.h"
#include "core/status.h"

namespace automodeld {

namespace {

// The last thing a trial does: tells its parent, at the other end of stdout, what was thrown.
[[noreturn]] void TellAndExit() {
  std::string reason = "it threw something while it was loaded";
  try {
    if (const std::exception_ptr thrown = std::current_exception()) std::rethrow_exception(thrown);
  } catch (const std::exception& error) {
    reason = FirstLine(error.what());
  } catch (...) {
  }
  while (write(STDOUT_FILENO, reason.data(), reason.size()) < 0 && errno == EINTR) {
  }
  _exit(1);
}

[[noreturn]] void Try(const std::filesystem::path& file, int told) {
  dup2(told, STDOUT_FILENO);
  std::set_terminate(TellAndExit);
  dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);  // if this fails it fails in the parent too, which says why
  _exit(0);
}

std::string ReadAll(int end) {
  std::string text;
  char bytes[4096];
  for (ssize_t count = 0; (count = read(end, bytes, sizeof(bytes))) > 0;)
    text.append(bytes, static_cast<size_t>(count));
  return text;
}

// What the library dies of when it is loaded; empty: nothing. Nobody can catch what it throws then (glibc's frames let
// no exception through), so a child process tries it first.
std::string TryInChild(const std::filesystem::path& file) {
  int ends[2];
  if (pipe(ends) != 0) return std::strerror(errno);
  const pid_t child = fork();
  if (child == 0) Try(file, ends[1]);
  close(ends[1]);
  const std::string told = ReadAll(ends[0]);
  close(ends[0]);
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return "no process could be made to try it";
  if (WIFSIGNALED(status)) return fmt::format("it crashed while it was loaded ({})", strsignal(WTERMSIG(status)));
  if (WEXITSTATUS(status) == 0) return "";
  return told.empty() ? "it ended the process while it was loaded" : FirstLine(told);
}

absl::Status Failed(const std::filesystem::path& file, const std::string& reason) {
  const std::string name = file.filename().string();
  const std::string line = absl::StrReplaceAll(FirstLine(reason), {{file.string(), name}});
  return absl::FailedPreconditionError(line.starts_with(name) ? line : fmt::format("{}: {}", name, line));
}

}  // namespace

absl::Status LoadOpLibrary(const std::string& path) {
  std::error_code error;
  const std::filesystem::path file = std::filesystem::absolute(path, error);  // dlopen would search for a bare name
  if (!std::filesystem::exists(file, error)) return Failed(file, "no such file");
  if (!std::filesystem::is_regular_file(file, error)) return Failed(file, "not a file");
  if (const std::string reason = TryInChild(file); !reason.empty()) return Failed(file, reason);
  if (dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr) return Failed(file, dlerror());
  spdlog::info("op library {} loaded", file.filename().string());
  return absl::OkStatus();
}

absl::Status LoadOpLibraries(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) RETURN_IF_ERROR(Prefixed("--op-library: ", LoadOpLibrary(path)));
  return absl::OkStatus();
}

}  // namespace automodeld
