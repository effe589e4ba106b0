// Fragments of keys and values for products of 16 x 16 by 16 x 8, out of a tile in shared memory.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_FRAGMENTS_H_
#define KERNELS_CUDA_FLASH_ATTENTION_FRAGMENTS_H_

#include "kernels/cuda/flash_attention_mma.h"

namespace automodeld {

// Bytes: the tile holds float8_e4m3fn, which become float16 in registers; else elements of 16 bits. Stride: a key's
// bytes, an odd number of 16.
//
// A lane's share of a product is two neighbouring pairs of dimensions of a key, or of keys of a column. Loads of 8 x 8
// pieces of 16 bits give it that; of bytes, they give four neighbouring dimensions, or two columns of two keys. Which
// dimension is which does not matter to a dot product as long as queries are in the same order, nor to columns as long
// as they are stored where they belong.
template <bool Bytes, int Stride>
struct FlashFragments {
  static constexpr int kKeys = 16;  // of a load

  // Eight queries from `column` on, of a row in shared memory.
  template <typename T>
  static __device__ void StoreQueries(T, T* row, int column, const uint4& queries) {
    *reinterpret_cast<uint4*>(row + column) = queries;
  }

  // Dimensions [16 k, 16 k + 16) of keys from `first` on, in tiles of 8 keys.
  static __device__ void LoadKeys(uint32_t (&to)[2][2], const char* keys, int first, int k, int lane) {
    const char* mine = keys + (lane / 16 * 8 + lane % 8) * Stride + lane / 8 % 2 * 16;
    uint32_t x[4];
    LoadMatrices(x, mine + first * Stride + k * 32);
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i / 2][i % 2] = x[i];
  }

  // Columns [16 n, 16 n + 16) of values from key `first` on: [16 keys each][tile of 8 columns].
  static __device__ void LoadValues(uint32_t (&to)[1][2][2], const char* values, int first, int n, int lane) {
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
struct FlashFragments<true, Stride> {
  static constexpr int kKeys = 32;

  // Pairs 2 j and 2 j + 1 of 16 dimensions go where a product expects pairs j and j + 4. Queries beyond float16's range
  // count as its largest number, tiny ones lose bits: scores that either changes much are of no use to a softmax.
  template <typename T>
  static __device__ void StoreQueries(T type, __half* row, int column, const uint4& queries) {
    auto* to = reinterpret_cast<uint2*>(row + column / 16 * 16 + column % 16 / 2);
    to[0] = {HalfPair(type, queries.x), HalfPair(type, queries.z)};
    to[2] = {HalfPair(type, queries.y), HalfPair(type, queries.w)};
  }

  static __device__ void LoadKeys(uint32_t (&to)[4][2], const char* keys, int first, int k, int lane) {
    uint32_t x[4];
    LoadMatrices(x, keys + (first + lane) * Stride + k * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) Widen(x[i], to[i]);
  }

  // A product's columns are the even ones, then the odd ones, of 16.
  static __device__ void LoadValues(uint32_t (&to)[2][2][2], const char* values, int first, int n, int lane) {
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

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_FRAGMENTS_H_
