// One warp's rows of flash attention: scores of a tile of keys, softmax as it goes, weighted sums of values.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_ROWS_H_
#define KERNELS_CUDA_FLASH_ATTENTION_ROWS_H_

#include <cmath>

#include "kernels/cuda/flash_attention_tile.h"

namespace automodeld {

// Rows `row` + 16 m + lane / 4 (+ 8) of the block, m < kRowTiles; per thread slot 2 m (+ 1).
template <typename Tile>
class FlashRowsOfWarp {
  using Product = typename Tile::Product;
  using Fragments = typename Tile::Fragments;
  static constexpr int M = Tile::kRowTiles, kColumns = Tile::kDim / 8, kKeyTiles = Tile::kKeys / 8;

 public:
  static constexpr int kSlots = 2 * M;

  // rows: where the queries will be in shared memory, [kRows][kStride]
  __device__ FlashRowsOfWarp(const FlashArgs& args, const FlashBlock& block, const Product* rows, int row)
      : a_(args), lane_(static_cast<int>(threadIdx.x) % 32), rows_(rows + row * Tile::kStride) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      largest_[i] = -INFINITY;
      sum_[i] = 0.0f;
      position_[i] = block.s.context - block.s.num_rows + (block.first + row + Row(i)) / args.group;
    }
    const int before = block.s.context - block.s.num_rows, last = block.first + row + 16 * M - 1;
    every_end_ = args.causal ? before + (block.first + row) / args.group + 1 : block.s.context;
    every_begin_ = args.window > 0 ? before + last / args.group - args.window + 1 : 0;
    context_ = block.s.context;
  }

  // Before the first Add, once the queries are there.
  __device__ void TakeQueries() {
    if constexpr (Tile::kRowsInRegisters) {
#pragma unroll
      for (int k = 0; k < Tile::kDim / 16; ++k) LoadRows(k, queries_[k]);
    }
  }

  // Of slot i, among the warp's rows.
  __device__ int Row(int i) const { return i / 2 * 16 + lane_ / 4 + i % 2 * 8; }

  // keys, values: a tile's, as FlashKeys gives them
  __device__ void Add(const char* keys, const char* values, int first_key) {
    float scores[M][kKeyTiles][4] = {};
    Scores(keys, scores);
    Mask(first_key, scores);
    Weights(scores);
    Sum(values, scores);
  }

  // Largest score, in units of log 2; sum of weights, complete after Finish; a weighted sum's two columns Column(n) and
  // + 1.
  __device__ float Largest(int i) const { return largest_[i] * a_.score_factor; }
  __device__ float SumOfWeights(int i) const { return sum_[i]; }
  __device__ float2 Columns(int i, int n) const {
    const float(&mine)[kColumns][4] = out_[i / 2];
    const int first = i % 2 * 2;
    if constexpr (Tile::kBytes)
      return {mine[n / 2 * 2][first + n % 2], mine[n / 2 * 2 + 1][first + n % 2]};
    else
      return {mine[n][first], mine[n][first + 1]};
  }
  __device__ int Column(int n) const { return Fragments::Column(n, lane_); }
  __device__ void Finish() {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) sum_[i] = RowSum(sum_[i]);
  }

 private:
  __device__ void LoadRows(int k, uint32_t (&to)[M][4]) const {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      LoadMatrices(to[m], rows_ + (m * 16 + lane_ % 16) * Tile::kStride + k * 16 + lane_ / 16 * 8);
    }
  }

  static __device__ void Copy(const uint32_t (&from)[M][4], uint32_t (&to)[M][4]) {
#pragma unroll
    for (int i = 0; i < M * 4; ++i) to[i / 4][i % 4] = from[i / 4][i % 4];
  }

  __device__ void Scores(const char* keys, float (&scores)[M][kKeyTiles][4]) const {
    constexpr int kLoad = Fragments::kKeys / 8;
#pragma unroll
    for (int k = 0; k < Tile::kDim / 16; ++k) {
      uint32_t a[M][4];
      if constexpr (Tile::kRowsInRegisters)
        Copy(queries_[k], a);
      else
        LoadRows(k, a);
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += kLoad) {
        uint32_t b[kLoad][2];
        Fragments::LoadKeys(b, keys, n * 8, k, lane_);
#pragma unroll
        for (int i = 0; i < kLoad * M; ++i) {
          MultiplyAdd(Product{}, scores[i / kLoad][n + i % kLoad], a[i / kLoad], b[i % kLoad][0], b[i % kLoad][1]);
        }
      }
    }
  }

  __device__ void Mask(int first_key, float (&scores)[M][kKeyTiles][4]) const {
    if (a_.cap_factor != 0.0f) {
#pragma unroll
      for (int i = 0; i < M * kKeyTiles * 4; ++i) {
        float& score = scores[i / (kKeyTiles * 4)][i / 4 % kKeyTiles][i % 4];
        score = Tanh(score * a_.cap_factor);
      }
    }
    if (first_key + Tile::kKeys <= every_end_ && first_key >= every_begin_) return;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      const int end = a_.causal ? position_[i] + 1 : context_;
      const int begin = a_.window > 0 ? position_[i] - a_.window + 1 : 0;
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int key = first_key + n * 8 + lane_ % 4 * 2 + j;
          if (key >= end || key < begin) scores[i / 2][n][i % 2 * 2 + j] = -INFINITY;
        }
      }
    }
  }

  // Scores become weights relative to the largest so far.
  __device__ void Weights(float (&scores)[M][kKeyTiles][4]) {
    float shrink[kSlots];
    bool changed = false;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      float largest = largest_[i];
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        largest = fmaxf(largest, fmaxf(scores[i / 2][n][i % 2 * 2], scores[i / 2][n][i % 2 * 2 + 1]));
      }
      largest = RowMax(largest);
      const float zero = largest == -INFINITY ? 0.0f : largest * a_.score_factor;  // nothing seen yet: all weights 0
      shrink[i] = Exp2(largest_[i] * a_.score_factor - zero);
      changed = changed || largest != largest_[i];
      largest_[i] = largest;
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& score = scores[i / 2][n][i % 2 * 2 + j];
          score = Exp2(score * a_.score_factor - zero);
          sum += score;
        }
      }
      sum_[i] = sum_[i] * shrink[i] + sum;
    }
    if (!__any_sync(0xffffffffU, changed)) return;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        out_[i / 2][n][i % 2 * 2] *= shrink[i];
        out_[i / 2][n][i % 2 * 2 + 1] *= shrink[i];
      }
    }
  }

  __device__ void Sum(const char* values, const float (&weights)[M][kKeyTiles][4]) {
    constexpr int kLoad = Fragments::kKeys / 16;  // products over 16 keys, whose values are loaded together
#pragma unroll
    for (int k = 0; k < kKeyTiles; k += 2 * kLoad) {
      uint32_t a[kLoad][M][4];
#pragma unroll
      for (int i = 0; i < kLoad * M * 4; ++i) {
        const float(&pair)[4] = weights[i / 4 % M][k + i / (4 * M) * 2 + i % 4 / 2];
        a[i / (4 * M)][i / 4 % M][i % 4] = PackPair(Product{}, pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
      }
#pragma unroll
      for (int n = 0; n < kColumns; n += 2) {
        uint32_t b[kLoad][2][2];
        Fragments::LoadValues(b, values, k * 8, n / 2, lane_);
#pragma unroll
        for (int i = 0; i < kLoad * M; ++i) {
          MultiplyAdd(Product{}, out_[i % M][n], a[i / M][i % M], b[i / M][0][0], b[i / M][0][1]);
          MultiplyAdd(Product{}, out_[i % M][n + 1], a[i / M][i % M], b[i / M][1][0], b[i / M][1][1]);
        }
      }
    }
  }

  const FlashArgs& a_;
  const int lane_;
  const Product* rows_;
  int context_, every_end_, every_begin_;  // keys in [every_begin_, every_end_) are seen by all of the warp's rows
  int position_[kSlots];
  float largest_[kSlots], sum_[kSlots];
  float out_[M][kColumns][4] = {};
  uint32_t queries_[Tile::kRowsInRegisters ? Tile::kDim / 16 : 1][M][4];
};

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_ROWS_H_
