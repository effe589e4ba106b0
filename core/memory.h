// How much memory the machine can still give to this process, and what the allocator does with it.
//
//   AvailableMemory();  // bytes: the least of MemAvailable and what the control groups leave
//
// Reads /proc and /sys/fs/cgroup (versions 1 and 2). Torch-free.
#ifndef CORE_MEMORY_H_
#define CORE_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace automodeld {

// Bytes; page cache that can be dropped counts as available. Where nothing can be read: INT64_MAX.
// `root` stands before the paths, for tests.
int64_t AvailableMemory(const std::string& root = "");

// Lets the allocator keep what a step has freed for the next step, which takes as much again; otherwise glibc gives
// tensors of some megabytes back each time and the kernel clears them anew. Few arenas keep it, so that the next model
// gets what an unloaded one leaves, whichever thread loads it; enough of them for the threads that run at a time. For
// programs that serve, at their start.
void KeepFreedMemory();

// Asks for pages of 2 MiB beneath `memory`, before it is written first: the kernel then clears a tensor in a third of
// the time, and reading it takes fewer address translations. Its numbers stay; a kernel that will not, does not.
void UseHugePages(std::span<std::byte> memory);

}  // namespace automodeld

#endif  // CORE_MEMORY_H_
