// Clusters: up to 8 blocks of a grid that run at the same time and see each other's shared memory. Hopper and later; on
// other architectures the functions below do nothing, and LaunchClusters must not be called.
//
//   __global__ void sum_kernel(...) {
//     __shared__ int parts[8];
//     ClusterStart();  // a peer's memory may be touched once it runs
//     ...
//     ClusterWait();
//     if (threadIdx.x < ClusterSize()) Peer(parts, threadIdx.x)[ClusterRank()] = mine;
//     ClusterSync();  // now `parts` holds every block's number, and no peer's memory is touched from here on
//   }
#ifndef KERNELS_CUDA_CLUSTER_H_
#define KERNELS_CUDA_CLUSTER_H_

#include "kernels/cuda/launch.h"

namespace automodeld {

// Every thread of the cluster calls both, in turn. What was written before ClusterArrive can be read after ClusterWait;
// ClusterStart only says that the block runs.
__device__ inline void ClusterStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}

__device__ inline void ClusterArrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}

__device__ inline void ClusterWait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

__device__ inline void ClusterSync() {
  ClusterArrive();
  ClusterWait();
}

// Returns when every block of the cluster has come this far: what it read of its peers, it has read.
__device__ inline void ClusterEnd() {
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
