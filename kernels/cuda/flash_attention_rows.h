// One warp's rows of flash attention: scores of a tile of keys, softmax as it goes, weighted sums of values.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_ROWS_H_
#define KERNELS_CUDA_FLASH_ATTENTION_ROWS_H_

#include "kernels/cuda/flash_attention_softmax.h"
#include "kernels/cuda/flash_attention_tile.h"

namespace automodeld {

// Rows `row` + 16 m + lane / 4 (+ 8) of the block, m < kRowTiles; per thread slot 2 m (+ 1).
template <typename Tile>
class FlashRowsOfWarp {
  using Product = typename Tile::Product;
  using Fragments = typename Tile::Fragments;
  using A = typename Fragments::A;
  using B = typename Fragments::B;
  static constexpr int M = Tile::kRowTiles, kColumns = Tile::kDim / 8, kKeyTiles = Tile::kKeys / 8;

 public:
  static constexpr int kSlots = FlashSoftmax<M, Tile::kKeys>::kSlots;

  // rows: where the queries will be in shared memory, [kRows][kStride]
  __device__ FlashRowsOfWarp(const FlashArgs& args, const FlashBlock& block, const Product* rows, int row)
      : softmax_(args, block.s, block.first + row),
        lane_(static_cast<int>(threadIdx.x) % 32),
        rows_(rows + row * Tile::kStride) {}

  // Before the first Add, once the queries are there.
  __device__ void TakeQueries() {
    if constexpr (Tile::kRowsInRegisters) {
#pragma unroll
      for (int k = 0; k < Tile::kDim / 16; ++k) LoadRows(k, queries_[k]);
    }
  }

  // Of slot i, among the warp's rows.
  __device__ int Row(int i) const { return softmax_.Row(i); }

  // keys, values: a tile's, as FlashKeys gives them
  __device__ void Add(const char* keys, const char* values, int first_key) {
    float scores[M][kKeyTiles][4] = {};
    Scores(keys, scores);
    float shrink[kSlots];
    if (softmax_.Weigh(first_key, scores, shrink)) Shrink(shrink);
    Sum(values, scores);
  }

  // Largest score, in units of log 2; sum of weights, complete after Finish; a weighted sum's two columns Column(n) and
  // + 1.
  __device__ float Largest(int i) const { return softmax_.Largest(i); }
  __device__ float SumOfWeights(int i) const { return softmax_.SumOfWeights(i); }
  __device__ float2 Columns(int i, int n) const {
    const float(&mine)[kColumns][4] = out_[i / 2];
    const int first = i % 2 * 2;
    if constexpr (Tile::kBytes)
      return {mine[n / 2 * 2][first + n % 2], mine[n / 2 * 2 + 1][first + n % 2]};
    else
      return {mine[n][first], mine[n][first + 1]};
  }
  __device__ int Column(int n) const { return Fragments::Column(n, lane_); }
  __device__ void Finish() { softmax_.Finish(); }

 private:
  __device__ void LoadRows(int k, A (&to)[M]) const {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      Fragments::LoadQueries(to[m], rows_ + m * 16 * Tile::kStride, Tile::kStride, k, lane_);
    }
  }

  static __device__ void Copy(const A (&from)[M], A (&to)[M]) {
#pragma unroll
    for (int i = 0; i < M * 4; ++i) to[i / 4][i % 4] = from[i / 4][i % 4];
  }

  __device__ void Scores(const char* keys, float (&scores)[M][kKeyTiles][4]) const {
    constexpr int kLoad = Fragments::kKeys / 8;
#pragma unroll
    for (int k = 0; k < Tile::kDim / 16; ++k) {
      A a[M];
      if constexpr (Tile::kRowsInRegisters)
        Copy(queries_[k], a);
      else
        LoadRows(k, a);
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += kLoad) {
        B b[kLoad];
        Fragments::LoadKeys(b, keys, n * 8, k, lane_);
#pragma unroll
        for (int i = 0; i < kLoad * M; ++i) {
          Fragments::Multiply(Product{}, scores[i / kLoad][n + i % kLoad], a[i / kLoad], b[i % kLoad]);
        }
      }
    }
  }

  __device__ void Shrink(const float (&by)[kSlots]) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        out_[i / 2][n][i % 2 * 2] *= by[i];
        out_[i / 2][n][i % 2 * 2 + 1] *= by[i];
      }
    }
  }

  __device__ void Sum(const char* values, const float (&weights)[M][kKeyTiles][4]) {
    constexpr int kLoad = Fragments::kKeys / 16;  // products over 16 keys, whose values are loaded together
#pragma unroll
    for (int k = 0; k < kKeyTiles; k += 2 * kLoad) {
      A a[kLoad][M];
#pragma unroll
      for (int i = 0; i < kLoad * M; ++i) {
        const float(&mine)[kKeyTiles][4] = weights[i % M];
        Fragments::PackWeights(Product{}, a[i / M][i % M], mine[k + i / M * 2], mine[k + i / M * 2 + 1]);
      }
#pragma unroll
      for (int n = 0; n < kColumns; n += 2) {
        B b[kLoad][2];
        Fragments::LoadValues(b, values, k * 8, n / 2, lane_);
#pragma unroll
        for (int i = 0; i < kLoad * M; ++i) {
          Fragments::Multiply(Product{}, out_[i % M][n], a[i / M][i % M], b[i / M][0]);
          Fragments::Multiply(Product{}, out_[i % M][n + 1], a[i / M][i % M], b[i / M][1]);
        }
      }
    }
  }

  FlashSoftmax<M, Tile::kKeys> softmax_;
  const int lane_;
  const Product* rows_;
  float out_[M][kColumns][4] = {};
  A queries_[Tile::kRowsInRegisters ? Tile::kDim / 16 : 1][M];
};

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_ROWS_H_
