#include "core/memory.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <span>
#include <string_view>
#include <thread>
#include <vector>

#include "tests/loading/checkpoint_folder.h"

namespace automodeld {
namespace {

constexpr int64_t kGiB = 1 << 30;

TEST(AvailableMemory, IsWhatTheKernelSaysWithoutControlGroups) {
  const CheckpointFolder root;
  root.Write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    4194304 kB\n");
  EXPECT_EQ(AvailableMemory(root.path()), 4 * kGiB);
}

TEST(AvailableMemory, IsTheLeastThatAnyGroupAboveTheProcessLeaves) {
  const CheckpointFolder root;
  root.Write("proc/meminfo", "MemAvailable:    4194304 kB\n");
  root.Write("proc/self/cgroup", "0::/pods/mine\n");
  root.Write("sys/fs/cgroup/pods/memory.max", "3221225472\n");
  root.Write("sys/fs/cgroup/pods/memory.current", "2147483648\n");
  root.Write("sys/fs/cgroup/pods/memory.stat", "anon 5\ninactive_file 1073741824\n");
  root.Write("sys/fs/cgroup/pods/mine/memory.max", "max\n");
  root.Write("sys/fs/cgroup/pods/mine/memory.current", "1\n");
  EXPECT_EQ(AvailableMemory(root.path()), 2 * kGiB);  // 3 - 2, and 1 of page cache that can be dropped
  root.Write("sys/fs/cgroup/memory.max", "1073741824\n");
  root.Write("sys/fs/cgroup/memory.current", "0\n");
  EXPECT_EQ(AvailableMemory(root.path()), kGiB);
}

TEST(AvailableMemory, KnowsVersion1Too) {
  const CheckpointFolder root;
  root.Write("proc/self/cgroup", "4:memory:/box\n");
  root.Write("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "3221225472\n");
  root.Write("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "1073741824\n");
  EXPECT_EQ(AvailableMemory(root.path()), 2 * kGiB);
}

TEST(AvailableMemory, IsUnboundedWhereNothingIsKnown) {
  const CheckpointFolder root;
  EXPECT_EQ(AvailableMemory(root.path()), std::numeric_limits<int64_t>::max());
}

TEST(UseHugePages, LeavesEveryNumberWhateverTheSize) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{2} << 20, (size_t{9} << 20) + 5}) {
    std::vector<std::byte> memory(size, std::byte{7});
    UseHugePages(memory);
    UseHugePages(std::span(memory).subspan(size / 2));
    EXPECT_EQ(std::ranges::count(memory, std::byte{7}), static_cast<ptrdiff_t>(size));
  }
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
int NumArenas() {
  char* text = nullptr;
  size_t size = 0;
  FILE* const stream = open_memstream(&text, &size);
  malloc_info(0, stream);
  fclose(stream);
  const std::string_view info(text, size);
  int arenas = 0;
  for (size_t at = info.find("<heap "); at != info.npos; at = info.find("<heap ", at + 1)) ++arenas;
  free(text);
  return arenas;
}

TEST(KeepFreedMemory, LeavesEachThreadOfABusyMachineItsArena) {
  KeepFreedMemory();
  const auto num_threads = static_cast<std::ptrdiff_t>(2 * std::max(1U, std::thread::hardware_concurrency()));
  std::barrier all_have_one(num_threads);
  std::vector<std::thread> threads;
  for (std::ptrdiff_t i = 0; i < num_threads; ++i) {
    threads.emplace_back([&all_have_one] {
      void* volatile memory = malloc(100'000);  // more than a thread's own cache holds
      all_have_one.arrive_and_wait();
      free(memory);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(NumArenas(), num_threads);
}
#endif

}  // namespace
}  // namespace automodeld
