// Hopper's own instructions (sm_90a): barriers in shared memory, the bulk tensor copy engine, warpgroup products.
//
// Follows the PTX manual's chapters "mbarrier", "cp.async.bulk.tensor" and "wgmma". Tiles in shared memory are rows of
// 128 bytes, swizzled as CU_TENSOR_MAP_SWIZZLE_128B does, and begin on borders of 1024 bytes.
#ifndef KERNELS_CUDA_HOPPER_H_
#define KERNELS_CUDA_HOPPER_H_

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>
#include <type_traits>

namespace automodeld::hopper {

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// --- Barriers: `arrivals` threads and the announced bytes complete a phase; phases alternate in parity.

__device__ inline void InitBarrier(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals) : "memory");
}

// Makes the barriers that this thread has initialised known to the copy engine and to the cluster.
__device__ inline void FenceBarrierInit() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}

__device__ inline void ArriveExpecting(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(bytes)
               : "memory");
}

__device__ inline void Await(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n .reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

// A stage of a ring, and the parity of the pass through the ring.
struct Place {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void Next(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

// A barrier that nobody has arrived at says that the pass before the first, of parity 1, is over: all stages are empty.
__device__ inline Place FirstFilling() { return {.stage = 0, .parity = 1}; }

// --- Threads.

// Meets at barrier `id`, 1 to 15, where `threads` threads sync or arrive; a multiple of a warp's.
template <int threads>
__device__ void SyncThreads(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(threads) : "memory");
}
template <int threads>
__device__ void ArriveThreads(int id) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(threads) : "memory");
}

// Every thread of a warpgroup: takes registers from the block's pool, which must come to have them, or gives some back.
template <int registers>
__device__ void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
__device__ void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

// --- Copies.

// What createpolicy makes for all of an access: L2 drops first what is read once (weights), and keeps what others will
// read too.
inline constexpr uint64_t kEvictFirst = 0x12F0000000000000, kEvictLast = 0x14F0000000000000;

// The box of `map` at (column, row) into shared memory; completes on the barrier.
__device__ inline void CopyTile(void* to, const CUtensorMap& map, int column, int row, uint64_t* barrier,
                                uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(SharedAddress(to)),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(column), "r"(row), "r"(SharedAddress(barrier)), "l"(policy)
      : "memory");
}

// The same of a map of four dimensions.
__device__ inline void CopyBox(void* to, const CUtensorMap& map, int c0, int c1, int c2, int c3, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(SharedAddress(to)),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(SharedAddress(barrier))
      : "memory");
}

// What this thread has done in shared memory comes before what products and the copy engine do there, once they are
// told by a barrier or, of this thread's, come after.
__device__ inline void FenceForEngines() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ inline void PrefetchMap(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(&map)) : "memory");
}

// Transposes an 8 x 8 matrix of 16-bit elements: thread t has, and gets, row t / 4, columns 2 (t % 4) and the next.
__device__ inline uint32_t Transpose8x8(uint32_t pair) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
}

// --- Warpgroup products: d [64, n] (+)= a [64, 32 bytes] b [n, 32 bytes]^T, summed in float32.

// Describes a b for wgmma whose rows of 128 bytes are along its columns, 64 of 16 bits: row k of the tile is b's k,
// `next_columns` bytes further are the next 64 columns. 16 rows further are 128 more.
__device__ inline uint64_t TurnedDescriptor(const void* tile, uint32_t next_columns) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kEightRows = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kEightRows | uint64_t{next_columns >> 4} << 16 | ((SharedAddress(tile) & 0x3FFFF) >> 4);
}

// Describes a tile whose rows are along its own; 32 bytes further along them are 2 more.
__device__ inline uint64_t TileDescriptor(const void* tile) {
  constexpr uint32_t kUnused = 16;
  return TurnedDescriptor(tile, kUnused);
}

__device__ inline void FenceProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void CommitProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Returns when at most `running` of the groups committed are not done.
template <int running>
__device__ void AwaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(running) : "memory");
}

// Keeps the compiler from moving uses of d over a fence or a wait.
template <int n>
__device__ void Pin(float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int n>
__device__ void Pin(uint32_t (&a)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

#define D4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define D8(i) D4(i), D4((i) + 4)
#define D16(i) D8(i), D8((i) + 8)
#define D32(i) D16(i), D16((i) + 16)
#define D64(i) D32(i), D32((i) + 32)
#define NAMES4 "%0, %1, %2, %3"
#define NAMES8 NAMES4 ", %4, %5, %6, %7"
#define NAMES16 NAMES8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES32 NAMES16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES64                                                                                  \
  NAMES32                                                                                        \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define MULTIPLY(shape, flags, names, in0, in1, in2, ...)                                                            \
  asm volatile("{\n .reg .pred add;\n setp.ne.b32 add, " in2 ", 0;\n wgmma.mma_async.sync.aligned." shape " {" names \
               "}, " in0 ", " in1 ", add, 1, 1" flags ";\n}"                                                         \
               : __VA_ARGS__                                                                                         \
               : "l"(a), "l"(b), "r"(static_cast<int>(add)))
#define MULTIPLY_TYPED(n, ...)                                      \
  if constexpr (std::is_same_v<T, __nv_fp8_e4m3>) {                 \
    MULTIPLY("m64n" #n "k32.f32.e4m3.e4m3", "", __VA_ARGS__);       \
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {          \
    MULTIPLY("m64n" #n "k16.f32.bf16.bf16", ", 0, 0", __VA_ARGS__); \
  } else {                                                          \
    MULTIPLY("m64n" #n "k16.f32.f16.f16", ", 0, 0", __VA_ARGS__);   \
  }

// Starts one product of tiles of T: __nv_fp8_e4m3, __nv_bfloat16 or __half. Without `add` what d held is dropped.
// Thread t of the warpgroup holds in d[4 j + 2 h + c] row 16 (t / 32) + 8 h + t % 32 / 4, column 8 j + 2 (t % 4) + c.
template <typename T, int n>
__device__ void Multiply(float (&d)[n], uint64_t a, uint64_t b, bool add) {
  static_assert(n == 4 || n == 8 || n == 16 || n == 32 || n == 64);
  if constexpr (n == 4) {
    MULTIPLY_TYPED(8, NAMES4, "%4", "%5", "%6", D4(0))
  } else if constexpr (n == 8) {
    MULTIPLY_TYPED(16, NAMES8, "%8", "%9", "%10", D8(0))
  } else if constexpr (n == 16) {
    MULTIPLY_TYPED(32, NAMES16, "%16", "%17", "%18", D16(0))
  } else if constexpr (n == 32) {
    MULTIPLY_TYPED(64, NAMES32, "%32", "%33", "%34", D32(0))
  } else {
    MULTIPLY_TYPED(128, NAMES64, "%64", "%65", "%66", D64(0))
  }
}

#define MULTIPLY_TURNED(shape, names, a0, a1, a2, a3, in, ...)                                             \
  asm volatile("wgmma.mma_async.sync.aligned." shape " {" names "}, {" a0 ", " a1 ", " a2 ", " a3 "}, " in \
               ", 1, 1, 1, 1;"                                                                             \
               : __VA_ARGS__                                                                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define MULTIPLY_TURNED_TYPED(n, ...)                            \
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {              \
    MULTIPLY_TURNED("m64n" #n "k16.f32.bf16.bf16", __VA_ARGS__); \
  } else {                                                       \
    MULTIPLY_TURNED("m64n" #n "k16.f32.f16.f16", __VA_ARGS__);   \
  }

// Starts d += a b of 16 k, T __nv_bfloat16 or __half: a, of 16-bit pairs, in registers, b as TurnedDescriptor says. Of
// a, thread t holds what the m16n8k16 of mma.sync takes: pairs of the columns of d where d[8 i] to d[8 i + 7] lie.
template <typename T, int n>
__device__ void MultiplyTurned(float (&d)[n], const uint32_t (&a)[4], uint64_t b) {
  static_assert(n == 32 || n == 64);
  if constexpr (n == 32) {
    MULTIPLY_TURNED_TYPED(64, NAMES32, "%32", "%33", "%34", "%35", "%36", D32(0))
  } else {
    MULTIPLY_TURNED_TYPED(128, NAMES64, "%64", "%65", "%66", "%67", "%68", D64(0))
  }
}

#undef D4
#undef D8
#undef D16
#undef D32
#undef D64
#undef NAMES4
#undef NAMES8
#undef NAMES16
#undef NAMES32
#undef NAMES64
#undef MULTIPLY
#undef MULTIPLY_TYPED
#undef MULTIPLY_TURNED
#undef MULTIPLY_TURNED_TYPED

}  // namespace automodeld::hopper

#endif  // KERNELS_CUDA_HOPPER_H_
