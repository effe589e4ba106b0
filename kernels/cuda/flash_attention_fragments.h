// Fragments of queries, weights, keys and values for products of 16 x 16 by 16 x 8, out of shared memory.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_FRAGMENTS_H_
#define KERNELS_CUDA_FLASH_ATTENTION_FRAGMENTS_H_

#include "kernels/cuda/flash_attention_mma.h"

namespace automodeld {

// What all have of 16 bits: queries and weights.
struct FlashFragments16 {
  using A = uint32_t[4];  // a lane's share of 16 x 16
  using B = uint32_t[2];  // of 16 x 8

  // Columns [16 k, 16 k + 16) of 16 rows of queries, `stride` elements apart.
  template <typename T>
  static __device__ void LoadQueries(A& to, const T* rows, int stride, int k, int lane) {
    LoadMatrices(to, rows + lane % 16 * stride + k * 16 + lane / 16 * 8);
  }
  // Weights of twice 8 keys, as a product gives them.
  template <typename T>
  static __device__ void PackWeights(T type, A& to, const float (&first)[4], const float (&second)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&pair)[4] = i < 2 ? first : second;
      to[i] = PackPair(type, pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
    }
  }
  template <typename T>
  static __device__ void Multiply(T type, float (&sum)[4], const A& a, const B& b) {
    MultiplyAdd(type, sum, a, b[0], b[1]);
  }
};

// Bytes: of an element in the tile. 1: float8_e4m3fn, which become float16 in registers. Stride: a key's bytes, an odd
// number of 16.
//
// A lane's share of a product is two neighbouring pairs of dimensions of a key, or of keys of a column. Loads of 8 x 8
// pieces of 16 bits give it that; of bytes, they give four neighbouring dimensions, or two columns of two keys. Which
// dimension is which does not matter to a dot product as long as queries are in the same order, nor to columns as long
// as they are stored where they belong.
template <int Bytes, int Stride>
struct FlashFragments : FlashFragments16 {
  static constexpr int kKeys = 16;  // of a load

  // Eight queries from `column` on, of a row in shared memory.
  template <typename T>
  static __device__ void StoreQueries(T, T* row, int column, const uint4& queries) {
    *reinterpret_cast<uint4*>(row + column) = queries;
  }

  // Dimensions [16 k, 16 k + 16) of keys from `first` on, in tiles of 8 keys.
  static __device__ void LoadKeys(B (&to)[2], const char* keys, int first, int k, int lane) {
    const char* mine = keys + (lane / 16 * 8 + lane % 8) * Stride + lane / 8 % 2 * 16;
    uint32_t x[4];
    LoadMatrices(x, mine + first * Stride + k * 32);
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i / 2][i % 2] = x[i];
  }

  // Columns [16 n, 16 n + 16) of values from key `first` on: [16 keys each][tile of 8 columns].
  static __device__ void LoadValues(B (&to)[1][2], const char* values, int first, int n, int lane) {
    const char* mine = values + lane % 16 * Stride + lane / 16 * 16;
    uint32_t x[4];
    LoadTransposed(x, mine + first * Stride + n * 32);
#pragma unroll
    for (int i = 0; i < 4; ++i) to[0][i / 2][i % 2] = x[i];
  }

  // Where the lane's pair n of columns lies.
  static __device__ int Column(int n, int lane) { return n * 8 + lane % 4 * 2; }
};

template <int Stride>
struct FlashFragments<1, Stride> : FlashFragments16 {
  static constexpr int kKeys = 32;

  // Pairs 2 j and 2 j + 1 of 16 dimensions go where a product expects pairs j and j + 4. Queries beyond float16's range
  // count as its largest number, tiny ones lose bits: scores that either changes much are of no use to a softmax.
  template <typename T>
  static __device__ void StoreQueries(T type, __half* row, int column, const uint4& queries) {
    auto* to = reinterpret_cast<uint2*>(row + column / 16 * 16 + column % 16 / 2);
    to[0] = {HalfPair(type, queries.x), HalfPair(type, queries.z)};
    to[2] = {HalfPair(type, queries.y), HalfPair(type, queries.w)};
  }

  static __device__ void LoadKeys(B (&to)[4], const char* keys, int first, int k, int lane) {
    uint32_t x[4];
    LoadMatrices(x, keys + (first + lane) * Stride + k * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) Widen(x[i], to[i]);
  }

  // A product's columns are the even ones, then the odd ones, of 16.
  static __device__ void LoadValues(B (&to)[2][2], const char* values, int first, int n, int lane) {
    uint32_t x[4];
    LoadTransposed(x, values + (first + lane) * Stride + n * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t pairs[2];
      Widen(__byte_perm(x[i], 0, 0x3120), pairs);
      to[i / 2][0][i % 2] = pairs[0];
      to[i / 2][1][i % 2] = pairs[1];
    }
  }

  static __device__ int Column(int n, int lane) { return n / 2 * 16 + lane % 4 * 4 + n % 2 * 2; }
};

// float32, in products of tf32: of the first 11 bits of both, and of the first of one by the next 11 of the other.
template <int Stride>
struct FlashFragments<4, Stride> {
  static constexpr int kKeys = 16;
  struct A {
    uint32_t high[8], low[8];  // four for each half of the 16 that are multiplied
  };
  struct B {
    uint32_t high[4], low[4];  // two for each half
  };

  static __device__ void StoreQueries(float, float* row, int column, const uint4& queries) {
    *reinterpret_cast<uint4*>(row + column) = queries;
  }

  // Four neighbouring dimensions are one of the first half's first four, of its last four, and of the second half's.
  static __device__ void LoadQueries(A& to, const float* rows, int stride, int k, int lane) {
    const float* mine = rows + lane / 4 * stride + k * 16 + lane % 4 * 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto x = *reinterpret_cast<const float4*>(mine + i * 8 * stride);
      SplitTf32(x.x, to.high[i], to.low[i]);
      SplitTf32(x.y, to.high[i + 2], to.low[i + 2]);
      SplitTf32(x.z, to.high[i + 4], to.low[i + 4]);
      SplitTf32(x.w, to.high[i + 6], to.low[i + 6]);
    }
  }
  static __device__ void LoadKeys(B (&to)[2], const char* keys, int first, int k, int lane) {
    const char* mine = keys + (first + lane / 4) * Stride + k * 64 + lane % 4 * 16;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto x = *reinterpret_cast<const float4*>(mine + i * 8 * Stride);
      SplitTf32(x.x, to[i].high[0], to[i].low[0]);
      SplitTf32(x.y, to[i].high[1], to[i].low[1]);
      SplitTf32(x.z, to[i].high[2], to[i].low[2]);
      SplitTf32(x.w, to[i].high[3], to[i].low[3]);
    }
  }

  // The even ones of 8 keys are the first four of a half, the odd ones the last.
  static __device__ void PackWeights(float, A& to, const float (&first)[4], const float (&second)[4]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float x = (i < 4 ? first : second)[i % 2 * 2 + i / 2 % 2];
      SplitTf32(x, to.high[i], to.low[i]);
    }
  }
  static __device__ void LoadValues(B (&to)[1][2], const char* values, int first, int n, int lane) {
    const char* mine = values + (first + lane % 4 * 2) * Stride + n * 64 + lane / 4 * 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int key = i / 2 % 2 * 8 + i % 2, tile = i / 4;
      const float x = *reinterpret_cast<const float*>(mine + key * Stride + tile * 32);
      SplitTf32(x, to[0][tile].high[i % 4], to[0][tile].low[i % 4]);
    }
  }

  static __device__ void Multiply(float, float (&sum)[4], const A& a, const B& b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      MultiplyAddTf32(sum, a.low + half * 4, b.high + half * 2);
      MultiplyAddTf32(sum, a.high + half * 4, b.low + half * 2);
      MultiplyAddTf32(sum, a.high + half * 4, b.high + half * 2);
    }
  }

  static __device__ int Column(int n, int lane) { return n * 8 + lane % 4 * 2; }
};

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_FRAGMENTS_H_
