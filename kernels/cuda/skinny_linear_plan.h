// How skinny_linear's kernel is laid over a product: decided on the host, from the shape alone.
//
//   SkinnyPlan plan = PlanSkinnyLinear(/*rows=*/1, /*out=*/4096, /*row_bytes=*/4096, /*processors=*/132);
//
// The rules are what came out of a search over tile heights, splits of K, blocks per processor and stages on one H200,
// on 2026-11-25: each linear layer of Llama-3.1-8B (FP8 and bfloat16) and Qwen3-0.6B (bfloat16) was varied in turn, in
// a CUDA graph over the layers of the model with distinct weights and a small kernel between two products. Around the
// optimum most choices differ by less than 1 %. That 16 and 32 rows split no short K is of 2026-11-27.
#ifndef KERNELS_CUDA_SKINNY_LINEAR_PLAN_H_
#define KERNELS_CUDA_SKINNY_LINEAR_PLAN_H_

#include <algorithm>
#include <cstdint>

namespace automodeld {

inline constexpr int64_t kMaxSkinnyRows = 64;

struct SkinnyPlan {
  int tokens;        // columns of the kernel's product: rows rounded up to a power of two, at least 8
  int groups;        // warpgroups of a block: it takes tiles of 64 times as many rows of the weight
  int tiles;         // of the weight
  int k_blocks;      // pieces of 128 bytes in a row of the weight
  int split_bits;    // log2 of the blocks that share a tile, which then is of one warpgroup
  int clusters;      // of 1 << split_bits blocks
  int stages;        // of the ring in shared memory
  int shared_bytes;  // for each block
};

// Whether the kernel takes a weight [out, row_bytes / element size] and that many rows of x.
inline bool IsSkinny(int64_t rows, int64_t out, int64_t row_bytes) {
  constexpr int64_t kLimit = int64_t{1} << 30;
  return rows >= 1 && rows <= kMaxSkinnyRows && out >= 1 && out < kLimit && row_bytes >= 16 && row_bytes < kLimit &&
         row_bytes % 16 == 0;
}

// For a shape that IsSkinny, on a GPU of that many multiprocessors, each with Hopper's 228 KiB of shared memory.
inline SkinnyPlan PlanSkinnyLinear(int64_t rows, int64_t out, int64_t row_bytes, int processors) {
  constexpr int kBlockBytes = 128, kTileRows = 64, kMaxSplitBits = 3;
  constexpr int kSharedOfProcessor = 224 << 10, kMostShared = 227 << 10, kReserved = 1 << 10;
  const auto up = [](int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); };
  SkinnyPlan plan = {};
  for (plan.tokens = 8; plan.tokens < rows;) plan.tokens *= 2;
  plan.groups = up(out, kTileRows) > 8 * processors ? 2 : 1;
  plan.tiles = up(out, plan.groups * kTileRows);
  plan.k_blocks = up(row_bytes, kBlockBytes);
  // Splitting fills the processors, but adding up costs time, which many tokens or a short K do not win back.
  const bool many = plan.tokens == kMaxSkinnyRows, costly = plan.k_blocks <= (plan.tokens > 8 ? 32 : 16);
  const int full = many || plan.k_blocks > 64 ? processors * 9 / 10 : processors;
  const int enough = costly ? processors * 9 / 20 : full;
  while (plan.split_bits < kMaxSplitBits && plan.tiles << plan.split_bits < enough &&
         plan.k_blocks >> (plan.split_bits + 1) >= 2) {
    ++plan.split_bits;
  }
  const int blocks = plan.tiles << plan.split_bits, each = std::min(2, up(blocks, processors));
  // Unsplit, the blocks walk: equally far.
  plan.clusters = plan.split_bits > 0 ? plan.tiles : up(plan.tiles, up(plan.tiles, int64_t{each} * processors));
  // Beside the ring: a barrier, scales and, of a split tile, the parts of its sums.
  const int parts = plan.split_bits > 0 ? std::max(1 << plan.split_bits, plan.tokens / 8) : 0;
  const int extra = parts * 128 * 16 + 8 + plan.tokens * 4;
  const int per_stage = (plan.groups * kTileRows + plan.tokens) * kBlockBytes + 16;
  const int work = up(plan.k_blocks, 1 << plan.split_bits) * up(plan.tiles, plan.clusters);
  // Short work leaves room for a block of the next kernel.
  const int most = std::min(kMostShared, kSharedOfProcessor / (each == 2 && work <= 8 ? 3 : each) - kReserved);
  plan.stages = std::min((most - extra) / per_stage, work);
  plan.shared_bytes = plan.stages * per_stage + extra;
  return plan;
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_SKINNY_LINEAR_PLAN_H_
