// The table that the op pool_rows takes: a row of int64 for each item.
//
//   std::vector<PoolItem> items = {{.first_row = 0, .num_rows = 20, .kind = PoolKind::kMean}};
//   const at::Tensor table = …;  // NumbersOf(items) as [items, kPoolItemSize]
//   const at::Tensor vectors = ops.pool_rows(hidden, table, std::nullopt);
#ifndef KERNELS_POOL_ROWS_H_
#define KERNELS_POOL_ROWS_H_

#include <cstdint>
#include <span>

namespace automodeld {

// How the vectors of a sequence's tokens become one.
enum class PoolKind : int64_t {
  kMean,
  kMeanSqrtLen,   // the sum divided by the square root of the number of tokens
  kWeightedMean,  // token i, counted from 1, weighs i
  kMax,
  kFirst,
  kLast,
};

// A sequence, or a chunk of one: then what came before lies in a row of `partial`, in float32, not yet divided.
struct PoolItem {
  int64_t first_row = 0;
  int64_t num_rows = 1;  // at least 1
  int64_t position = 0;  // of the first row in its sequence; 0: nothing came before
  PoolKind kind = PoolKind::kMean;
  int64_t partial = -1;    // row of `partial`, which no other item has; -1: the sequence is whole
  int64_t last = 1;        // 0: more rows follow
  int64_t dimensions = 0;  // of the vector, those beyond are 0; 0: all
  int64_t normalize = 0;   // 1: what is left has length 1
};

// What the fused versions are given. T: of the hidden states.
template <typename T>
struct PoolArgs {
  const T* hidden;  // rows `stride` elements apart
  const PoolItem* items;
  float *partial, *vectors;  // [rows, width]
  int64_t stride, width;
};

inline constexpr int64_t kPoolItemSize = 8;
static_assert(sizeof(PoolItem) == kPoolItemSize * sizeof(int64_t));

inline std::span<const int64_t> NumbersOf(std::span<const PoolItem> items) {
  return {reinterpret_cast<const int64_t*>(items.data()), items.size() * static_cast<size_t>(kPoolItemSize)};
}

}  // namespace automodeld

#endif  // KERNELS_POOL_ROWS_H_
