// Memory of one device in slabs that come and go beneath addresses that stay: CUDA's virtual memory management on a
// GPU, mmap on the CPU. What KvArena is made of.
//
//   const std::unique_ptr<SlabMemory> memory = MakeSlabMemory(device);
//   std::byte* begin = memory->Reserve(int64_t{200} << 30);   // addresses; nothing can be read there
//   memory->Map(begin, 32 << 20);                             // now 32 MiB can
//   memory->Unmap(begin, 32 << 20);
//   memory->Release(begin, int64_t{200} << 30);
//
// Threads: any, for pieces that do not overlap.
#ifndef KERNELS_SLAB_MEMORY_H_
#define KERNELS_SLAB_MEMORY_H_

#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace automodeld {

class SlabMemory {
 public:
  virtual ~SlabMemory() = default;

  // Sizes below, and the distance of a slab from the reserved range's begin, are multiples of it.
  virtual int64_t granularity() const = 0;

  // Throws c10::Error where the addresses cannot be had.
  virtual std::byte* Reserve(int64_t bytes) = 0;
  virtual void Release(std::byte* begin, int64_t bytes) = 0;  // a whole range, of which nothing is mapped

  // Puts memory, with anything in it, beneath a slab. false: there is none. `lazily`: it may come as it is first
  // written, where whoever asks has seen to it that it will be there.
  virtual bool Map(std::byte* begin, int64_t bytes, bool lazily) = 0;
  // Gives back one slab or several that adjoin. Nothing on the device may use them any more.
  virtual void Unmap(std::byte* begin, int64_t bytes) = 0;

  // Of what was mapped lazily: has not come yet, and is still to be taken from what the device counts as free.
  virtual int64_t OutstandingBytes() { return 0; }
};

// Null where the device, its driver or this build cannot do it.
std::unique_ptr<SlabMemory> MakeSlabMemory(c10::Device device);

}  // namespace automodeld

#endif  // KERNELS_SLAB_MEMORY_H_
