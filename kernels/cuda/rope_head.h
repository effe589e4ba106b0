// One head of a row of q, k and v on its way through its norm and rotation, spread over neighbouring lanes of a warp:
//   n = x / rms(x) * w (if there is a w), then with halves a, b of the rotated part
//   a' = a cos - b sin;  b' = b cos + a sin
// each product rounded as in eager/qkv_rope_write_kv.cc. What qkv_rope_write_kv.cu and decode attention
// (flash_attention_raw.h) share, so that both give the same bits.
//
//   HeadPart<T, 8> x;
//   x.PlaceAt(lane, half, head_dim);
//   x.LoadFrom(head);
//   x.Normalize(InverseRms(LanesSum(x.Squares(), lanes), head_dim, eps), weight);
//   x.Rotate(x.LoadAngles(cos_sin + position * 2 * half, half));
#ifndef KERNELS_CUDA_ROPE_HEAD_H_
#define KERNELS_CUDA_ROPE_HEAD_H_

#include "kernels/cuda/launch.h"
#include "kernels/cuda/rounding.h"
#include "kernels/cuda/row_quantize.h"
#include "kernels/cuda/row_reduce.h"

namespace automodeld {

// Of the rotated pairs that a part has, rounded as they are used.
template <typename T, int W>
struct Angles {
  Pack<T, W> cosine, sine;
};

// Two packs of a head: the elements first + j and second + j, which are a pair where they are rotated. No pack crosses
// the end of a half or of a head.
template <typename T, int W>
struct HeadPart {
  int first, second, head_dim;
  bool rotated;
  Pack<T, W> a, b;

  // The `index`th part of a head of which twice `half` elements are rotated: pairs of these, then the rest in turn;
  // beyond the end it has none.
  __device__ void PlaceAt(int index, int half, int dim) {
    const int pairs = half / W;
    head_dim = dim;
    rotated = index < pairs;
    first = rotated ? index * W : 2 * half + 2 * (index - pairs) * W;
    second = first + (rotated ? half : W);
#pragma unroll
    for (int j = 0; j < W; ++j) a[j] = b[j] = T{};
  }

  __device__ void LoadFrom(const T* head) {
    if (first < head_dim) a = Load<T, W>(head + first);
    if (second < head_dim) b = Load<T, W>(head + second);
  }

  // cos_sin: [2, half].
  __device__ Angles<T, W> LoadAngles(const float* cos_sin, int half) const {
    Angles<T, W> angles = {};
    if (!rotated) return angles;
    const auto cosine = Load<float, W>(cos_sin + first), sine = Load<float, W>(cos_sin + half + first);
#pragma unroll
    for (int j = 0; j < W; ++j) {
      angles.cosine[j] = RoundTo<T>(cosine[j]);
      angles.sine[j] = RoundTo<T>(sine[j]);
    }
    return angles;
  }

  // visit(column, pack) for each of the two that the head has.
  template <typename Visit>
  __device__ void ForEachPack(Visit visit) const {
    if (first < head_dim) visit(first, a);
    if (second < head_dim) visit(second, b);
  }

  // Fused and rounded in one way whatever is compiled around it.
  __device__ float Squares() const {
    float squares = 0;
#pragma unroll
    for (int j = 0; j < W; ++j) {
      const float x = static_cast<float>(a[j]), y = static_cast<float>(b[j]);
      squares += __fmaf_rn(x, x, __fmul_rn(y, y));
    }
    return squares;
  }

  __device__ void Normalize(float scale, const HeadPart& weight) {
#pragma unroll
    for (int j = 0; j < W; ++j) {
      a[j] = Product(RoundTo<T>(static_cast<float>(a[j]) * scale), weight.a[j]);
      b[j] = Product(RoundTo<T>(static_cast<float>(b[j]) * scale), weight.b[j]);
    }
  }

  __device__ void Rotate(const Angles<T, W>& angles) {
    if (!rotated) return;
#pragma unroll
    for (int j = 0; j < W; ++j) {
      const T c = angles.cosine[j], s = angles.sine[j], x = a[j], y = b[j];
      a[j] = RoundTo<T>(static_cast<float>(Product(x, c)) - static_cast<float>(Product(y, s)));
      b[j] = RoundTo<T>(static_cast<float>(Product(y, c)) + static_cast<float>(Product(x, s)));
    }
  }

 private:
  // Rounded before it is added to anything.
  static __device__ T Product(T x, T y) { return RoundTo<T>(__fmul_rn(static_cast<float>(x), static_cast<float>(y))); }
};

// Of the lanes (a power of two) that share a head; more lanes than have a part change no bit.
__device__ inline float LanesSum(float value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

__device__ inline float InverseRms(float squares, int head_dim, float eps) {
  return rsqrtf(squares / static_cast<float>(head_dim) + eps);
}

// As a float8_e4m3fn cache holds them.
template <typename T, int W>
__device__ Pack<uint8_t, W> ToE4m3Cache(const Pack<T, W>& x, float write_scale) {
  Pack<float, W> scaled;
#pragma unroll
  for (int j = 0; j < W; ++j) scaled[j] = static_cast<float>(x[j]) * write_scale;
  return ToE4m3(scaled);
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_ROPE_HEAD_H_
