// Clusters: up to 8 blocks of a grid that run at the same time and see each other's shared memory. Code for Hopper and
// later; elsewhere the functions below do nothing, and LaunchClusters must not be called: HasHopperLaunches.
//
//   __global__ void sum_kernel(...) {
//     __shared__ int parts[8];
//     __shared__ uint64_t there;
//     if (threadIdx.x == 0) ExpectStores(&there, ClusterSize() * sizeof(int));
//     ClusterStart();  // a peer's memory may be touched once it runs
//     ...
//     ClusterWait();
//     if (threadIdx.x < ClusterSize()) StoreAt(&parts[ClusterRank()], mine, &there, threadIdx.x);
//     AwaitStores(&there);  // now `parts` holds every block's number, and no peer touches it from here on
//   }
#ifndef KERNELS_CUDA_CLUSTER_H_
#define KERNELS_CUDA_CLUSTER_H_

#include <cstring>

#include "kernels/cuda/hopper.h"
#include "kernels/cuda/launch.h"

namespace automodeld {

// Every thread of the cluster calls both, in turn. ClusterStart only says that the block runs.
__device__ inline void ClusterStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}

__device__ inline void ClusterWait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

// What was written before can be read after it. Takes 0.5 us, because it waits until the device sees the writes.
__device__ inline void ClusterSync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
  ClusterWait();
}

// Returns when every block of the cluster has come this far: what it has read, it has read.
__device__ inline void ClusterMeet() {
  ClusterStart();
  ClusterWait();
}

__device__ inline uint32_t ClusterRank() {
  uint32_t rank = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}

__device__ inline uint32_t ClusterSize() {
  uint32_t size = 1;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
  return size;
}

// Which of the grid's clusters, along x, and of how many; a grid without them has one for each block.
__device__ inline uint32_t ClusterIndex() {
  uint32_t index = blockIdx.x;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(index));
#endif
  return index;
}

__device__ inline uint32_t NumClusters() {
  uint32_t clusters = gridDim.x;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%nclusterid.x;" : "=r"(clusters));
#endif
  return clusters;
}

// Block `rank`'s copy of a variable in shared memory.
template <typename T>
__device__ T* Peer(T* mine, uint32_t rank) {
  T* peer = mine;
#if __CUDA_ARCH__ >= 900
  asm("mapa.u64 %0, %1, %2;" : "=l"(peer) : "l"(mine), "r"(rank));
#endif
  return peer;
}

// --- Stores to a peer that announce themselves. The barrier, in shared memory, is for one use.

// One thread, before ClusterStart: as many bytes will come from the cluster.
__device__ inline void ExpectStores(uint64_t* barrier, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  hopper::InitBarrier(barrier, 1);
  hopper::FenceBarrierInit();
  hopper::ArriveExpecting(barrier, bytes);
#endif
}

// *to = value in block `rank`, of 4, 8 or 16 bytes.
template <typename T>
__device__ void StoreAt(T* to, const T& value, uint64_t* barrier, uint32_t rank) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  uint32_t w[sizeof(T) / 4];
  memcpy(w, &value, sizeof(w));
#if __CUDA_ARCH__ >= 900
  uint32_t there = 0, theirs = 0;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(hopper::SharedAddress(to)), "r"(rank));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(theirs) : "r"(hopper::SharedAddress(barrier)), "r"(rank));
  if constexpr (sizeof(T) == 4) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %2, [%1];" ::"r"(there), "r"(theirs),
                 "r"(w[0])
                 : "memory");
  } else if constexpr (sizeof(T) == 8) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%2, %3}, [%1];" ::"r"(there),
                 "r"(theirs), "r"(w[0]), "r"(w[1])
                 : "memory");
  } else {
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%2, %3, %4, %5}, [%1];" ::"r"(there),
        "r"(theirs), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3])
        : "memory");
  }
#endif
}

// What was stored can be read. After the thread's ClusterWait, or it does not know the barrier.
__device__ inline void AwaitStores(uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  hopper::Await(barrier, 0);
#endif
}

// --- Launching.

// Lets the kernel be launched with so many bytes of dynamic shared memory, on the current device.
template <typename... Params>
void AllowSharedBytes(void (*kernel)(Params...), size_t bytes) {
  C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

// As Launch, with the grid's blocks in clusters of `cluster` along x, which divides the grid's.
template <typename... Params, typename... Args>
void LaunchClusters(void (*kernel)(Params...), unsigned cluster, dim3 grid, dim3 block, size_t shared_bytes,
                    Args&&... args) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = cluster;
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  LaunchWith(attributes, kernel, grid, block, shared_bytes, args...);
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_CLUSTER_H_
