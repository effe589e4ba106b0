#include "core/memory.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <sys/mman.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <memory>
#include <optional>
#include <sstream>
#include <thread>

namespace automodeld {

namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

// The number in a file that holds nothing else; nothing for "max".
std::optional<int64_t> Number(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (!(file >> value)) return std::nullopt;
  return value;
}

// The number after `key` at the beginning of a line.
std::optional<int64_t> Field(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string word;
    int64_t value = 0;
    if (words >> word >> value && word == key) return value;
  }
  return std::nullopt;
}

struct Group {
  std::string limit, usage, inactive;  // file names
};

const Group kVersion2 = {"memory.max", "memory.current", "inactive_file"};
const Group kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};

int64_t LeftIn(const std::string& folder, const Group& files) {
  const auto limit = Number(folder + "/" + files.limit);
  const auto usage = Number(folder + "/" + files.usage);
  if (!limit.has_value() || !usage.has_value()) return kUnknown;
  const int64_t droppable = Field(folder + "/memory.stat", files.inactive).value_or(0);
  return std::max<int64_t>(0, *limit - *usage + std::min(droppable, *usage));
}

// The least of a group and all above it, up to `mount`.
int64_t LeftUpwards(const std::string& mount, std::string group, const Group& files) {
  int64_t left = LeftIn(mount, files);
  while (group.size() > 1) {
    left = std::min(left, LeftIn(mount + group, files));
    group.resize(group.rfind('/'));
  }
  return left;
}

int64_t LeftInGroups(const std::string& root) {
  int64_t left =
      std::min(LeftIn(root + "/sys/fs/cgroup", kVersion2), LeftIn(root + "/sys/fs/cgroup/memory", kVersion1));
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {  // 0::/group, 4:memory:/group
    const size_t path = line.find('/');
    if (path == std::string::npos) continue;
    const std::string group = line.substr(path);
    if (line.starts_with("0::")) left = std::min(left, LeftUpwards(root + "/sys/fs/cgroup", group, kVersion2));
    if (line.find(":memory:") != std::string::npos) {
      left = std::min(left, LeftUpwards(root + "/sys/fs/cgroup/memory", group, kVersion1));
    }
  }
  return left;
}

}  // namespace

int64_t AvailableMemory(const std::string& root) {
  const auto kilobytes = Field(root + "/proc/meminfo", "MemAvailable:");
  return std::min(kilobytes.has_value() ? *kilobytes * 1024 : kUnknown, LeftInGroups(root));
}

void KeepFreedMemory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that glibc takes
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  // Two a core instead of eight, because malloc_trim leaves an arena's end as it is; threads that share one wait for
  // each other at every allocation that their own cache does not hold.
  mallopt(M_ARENA_MAX, 2 * static_cast<int>(std::max(1U, std::thread::hardware_concurrency())));
#endif
}

void UseHugePages(std::span<std::byte> memory) {
#if defined(MADV_HUGEPAGE)
  constexpr size_t kHuge = 2 << 20;
  void* begin = memory.data();
  size_t left = memory.size();
  if (std::align(kHuge, kHuge, begin, left) == nullptr) return;  // no whole one in it
  static_cast<void>(madvise(begin, left / kHuge * kHuge, MADV_HUGEPAGE));
#endif
}

}  // namespace automodeld
