// y = sum_s w_s o_s / (sum_s w_s l_s + sink), w_s = 2^(m_s - max m), over the splits s of a row; then perhaps
// quantised. Reads what the splits wrote, a few hundred KB at most and out of L2: latency counts. A row's heads are
// shared by up to eight blocks, which, where the row is quantised, are a cluster and find the row's largest value
// together.
#include <cooperative_groups.h>

#include "kernels/cuda/cluster.h"
#include "kernels/cuda/flash_attention_tile.h"

namespace automodeld {
namespace {

constexpr int kThreads = 512, kParts = 8, kMaxShared = 80 << 10;

// A block's share of a row, in pieces of four columns, and the heads that these belong to.
struct MergePart {
  int first, pieces, first_head, heads, splits;  // splits: those that had keys
};

__device__ MergePart ThisPart(const FlashMergeArgs& a) {
  const int all = a.heads * a.head_dim / 4, each = DivideUp(all, static_cast<int>(gridDim.x));
  const int first = min(all, static_cast<int>(blockIdx.x) * each), pieces = min(each, all - first);
  const int context = a.sequences[blockIdx.y].context, begin = FirstKey(context - 1, a.window);
  const int first_head = first * 4 / a.head_dim;
  return {.first = first,
          .pieces = pieces,
          .first_head = first_head,
          .heads = pieces == 0 ? 0 : (first + pieces - 1) * 4 / a.head_dim - first_head + 1,
          .splits = DivideUp(context - begin, SplitLength(begin, context, a.splits, kFlashSplitUnit))};
}

__device__ int64_t PartialRow(const FlashMergeArgs& a, int split) {
  return (int64_t{blockIdx.y} * a.splits + split) * a.heads;
}

// weights: [heads of the part][splits], by which o_s is multiplied
__device__ void Weigh(const FlashMergeArgs& a, const MergePart& part, float* weights) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (int head = warp; head < part.heads; head += kThreads / 32) {
    float2 mine[kMaxFlashSplits / 32];
    float largest = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kMaxFlashSplits / 32; ++i) {
      const int split = i * 32 + lane;
      mine[i] = {-INFINITY, 0.0f};
      if (split < part.splits) {
        const int64_t at = PartialRow(a, split) + part.first_head + head;
        mine[i] = *reinterpret_cast<const float2*>(a.partial_sum + at * 2);
      }
      largest = fmaxf(largest, mine[i].x);
    }
    for (int offset = 16; offset > 0; offset /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0U, largest, offset));
#pragma unroll
    for (auto& pair : mine) {
      pair.x = Exp2(pair.x - largest);
      sum += pair.x * pair.y;
    }
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0U, sum, offset);
    if (a.sinks != nullptr) {
      sum += Exp2(fminf(a.sinks[part.first_head + head] * 1.4426950408889634f - largest, 126.0f));
    }
    for (int i = 0; i < kMaxFlashSplits / 32; ++i) {
      const int split = i * 32 + lane;
      if (split < part.splits) weights[head * part.splits + split] = mine[i].x * a.result_factor / sum;
    }
  }
}

// Every `stride`th split from `split` on, of one piece.
__device__ float4 SumSplits(const FlashMergeArgs& a, const MergePart& part, const float* weights, int piece, int split,
                            int stride) {
  const int column = (part.first + piece) * 4;
  const float* mine = weights + (column / a.head_dim - part.first_head) * part.splits;
  float4 sum{};
#pragma unroll 8
  for (int s = split; s < part.splits; s += stride) {
    const float4 x = *reinterpret_cast<const float4*>(a.partial + PartialRow(a, s) * a.head_dim + column);
    sum.x += mine[s] * x.x;
    sum.y += mine[s] * x.y;
    sum.z += mine[s] * x.z;
    sum.w += mine[s] * x.w;
  }
  return sum;
}

// The largest of every thread's `value` in the row's blocks.
__device__ float RowLargest(float value) {
  __shared__ float warps[kThreads / 32];
  [[maybe_unused]] __shared__ float block;
  for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(~0U, value, offset));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  for (float warp : warps) value = fmaxf(value, warp);
#if __CUDA_ARCH__ >= 900
  if (gridDim.x > 1) {
    const auto cluster = cooperative_groups::this_cluster();
    if (threadIdx.x == 0) block = value;
    cluster.sync();
    for (unsigned i = 0; i < gridDim.x; ++i) value = fmaxf(value, *cluster.map_shared_rank(&block, i));
    cluster.sync();  // nobody leaves while others read
  }
#endif
  return value;
}

// Four columns, rounded to T.
template <typename T>
__device__ float4 Rounded(const float4& x) {
  return {static_cast<float>(static_cast<T>(x.x)), static_cast<float>(static_cast<T>(x.y)),
          static_cast<float>(static_cast<T>(x.z)), static_cast<float>(static_cast<T>(x.w))};
}
__device__ unsigned Quantized(float x, float scale) {
  return __nv_cvt_float_to_fp8(__fdiv_rn(x, scale), __NV_SATFINITE, __NV_E4M3);
}

// rows: the part's columns in float32; sums of groups of threads, each with some of the splits, are added up in them.
template <typename T>
__device__ float MergePieces(const FlashMergeArgs& a, const MergePart& part, const float* weights, float4* rows) {
  __shared__ float4 sums[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int groups = part.pieces < kThreads ? max(1, min(part.splits, kThreads / max(1, part.pieces))) : 1;
  const int width = min(part.pieces, kThreads);
  float largest = 0.0f;
  for (int begin = 0; begin < part.pieces; begin += width) {
    const int group = thread / width, piece = begin + thread % width;
    const bool mine = group < groups && piece < part.pieces;
    if (mine) sums[thread] = SumSplits(a, part, weights, piece, group, groups);
    __syncthreads();
    if (mine && group == 0) {
      float4 sum = sums[thread];
      for (int g = 1; g < groups; ++g) {
        const float4 other = sums[g * width + thread];
        sum = {sum.x + other.x, sum.y + other.y, sum.z + other.z, sum.w + other.w};
      }
      rows[piece] = sum = Rounded<T>(sum);
      largest = fmaxf(largest, fmaxf(fmaxf(fabsf(sum.x), fabsf(sum.y)), fmaxf(fabsf(sum.z), fabsf(sum.w))));
    }
    __syncthreads();
  }
  return largest;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) flash_merge_kernel(const __grid_constant__ FlashMergeArgs a) {
  extern __shared__ __align__(16) float4 rows[];
  AllowNext();
  const MergePart part = ThisPart(a);
  const int64_t row = a.sequences[blockIdx.y].first_row, width = int64_t{a.heads} * a.head_dim;
  float* weights = reinterpret_cast<float*>(rows + DivideUp(a.heads * a.head_dim / 4, static_cast<int>(gridDim.x)));
  AwaitPrevious();
  Weigh(a, part, weights);
  __syncthreads();
  const float largest = MergePieces<T>(a, part, weights, rows);
  const float scale = a.scale != nullptr ? fmaxf(__fdiv_rn(RowLargest(largest), 448.0f), 1e-12f) : 1.0f;
  for (int piece = static_cast<int>(threadIdx.x); piece < part.pieces; piece += kThreads) {
    const float4 x = rows[piece];
    const int64_t at = row * width + (part.first + piece) * 4;
    if (a.scale != nullptr) {
      const unsigned bytes = Quantized(x.x, scale) | Quantized(x.y, scale) << 8 | Quantized(x.z, scale) << 16 |
                             Quantized(x.w, scale) << 24;
      *reinterpret_cast<unsigned*>(static_cast<char*>(a.out) + at) = bytes;
    } else {
      const uint2 pair = {PackPair(T{}, x.x, x.y), PackPair(T{}, x.z, x.w)};
      *reinterpret_cast<uint2*>(static_cast<T*>(a.out) + at) = pair;
    }
  }
  if (a.scale != nullptr && blockIdx.x == 0 && threadIdx.x == 0) a.scale[row] = scale;
}

template <typename T>
void LaunchMerge(const FlashMergeArgs& args, unsigned sequences) {
  int device = 0, major = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  const bool clusters = args.scale != nullptr && major >= 9;
  const unsigned parts = args.scale == nullptr || clusters ? kParts : 1;
  const int pieces = (args.heads * args.head_dim / 4 + static_cast<int>(parts) - 1) / static_cast<int>(parts);
  const int heads = pieces * 4 / args.head_dim + 2;  // of a part, which may begin and end within a head
  const size_t shared = static_cast<size_t>(pieces) * 16 + static_cast<size_t>(heads * args.splits) * 4;
  TORCH_CHECK(shared <= kMaxShared, "attention: rows of ", args.heads, " heads of ", args.head_dim, " are too wide");
  C10_CUDA_CHECK(cudaFuncSetAttribute(flash_merge_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxShared));
  if (clusters)
    LaunchClusters(flash_merge_kernel<T>, parts, {parts, sequences}, kThreads, shared, args);
  else
    Launch(flash_merge_kernel<T>, {parts, sequences}, kThreads, shared, args);
}

}  // namespace

bool HasFlashCode() {
  cudaFuncAttributes attributes;
  const bool found = cudaFuncGetAttributes(&attributes, flash_merge_kernel<__half>) == cudaSuccess;
  if (!found) cudaGetLastError();  // or the next launch reports it
  return found;
}

void LaunchFlashMerge(bool bfloat16, const FlashMergeArgs& args, int64_t sequences) {
  if (bfloat16)
    LaunchMerge<__nv_bfloat16>(args, static_cast<unsigned>(sequences));
  else
    LaunchMerge<__half>(args, static_cast<unsigned>(sequences));
}

}  // namespace automodeld
