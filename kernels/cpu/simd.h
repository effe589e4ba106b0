// Vector code that is compiled for three levels of x86-64 (baseline, AVX2, AVX-512), or for a baseline of four lanes on
// other processors; the level is picked at run time.
//
//   struct Scale {
//     template <int W>
//     AUTOMODELD_INLINE static void Run(const float* x, float* y, int64_t n) {
//       for (int64_t i = 0; i < n; i += W) StorePart<W>(y + i, LoadPart<W>(x + i, n - i) * 2.0f, n - i);
//     }
//   };
//   RunSimd<Scale>(x, y, n);
//
// Only what is AUTOMODELD_INLINE ends up in the fast versions: no lambdas, no calls of other functions in a hot loop.
#ifndef KERNELS_CPU_SIMD_H_
#define KERNELS_CPU_SIMD_H_

#include <ATen/ATen.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#define AUTOMODELD_INLINE [[gnu::always_inline]] inline
// Before a loop of a constant, small number of turns: arrays of vectors that it fills then live in registers.
#define AUTOMODELD_UNROLL _Pragma("GCC unroll 16")

namespace automodeld {

enum class SimdLevel { kBaseline, kAvx2, kAvx512 };

SimdLevel BestSimdLevel();  // of this machine
SimdLevel CurrentSimdLevel();
void SetSimdLevel(SimdLevel level);  // for tests: not above BestSimdLevel, and while nothing runs

template <int W>
struct Lanes {
  typedef float Floats __attribute__((vector_size(4 * W)));
  typedef int32_t Ints __attribute__((vector_size(4 * W)));
  typedef uint32_t Words __attribute__((vector_size(4 * W)));
  typedef uint16_t Shorts __attribute__((vector_size(2 * W)));
  typedef uint8_t Bytes __attribute__((vector_size(W), may_alias, aligned(1)));
};

template <int W>
using Floats = typename Lanes<W>::Floats;
template <int W>
using Ints = typename Lanes<W>::Ints;
template <int W>
using Words = typename Lanes<W>::Words;
template <int W>
using Shorts = typename Lanes<W>::Shorts;
template <int W>
using Bytes = typename Lanes<W>::Bytes;

template <int W>
AUTOMODELD_INLINE Floats<W> Broadcast(float x) {
  return x - Floats<W>{};
}

template <int W>
AUTOMODELD_INLINE Floats<W> Max(Floats<W> a, Floats<W> b) {
  return a > b ? a : b;
}

template <int W>
AUTOMODELD_INLINE Floats<W> Load(const float* p) {
  Floats<W> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <int W>
AUTOMODELD_INLINE Words<W> LoadShorts(const void* p) {
  Shorts<W> v;
  std::memcpy(&v, p, sizeof(v));
  return __builtin_convertvector(v, Words<W>);
}

template <int W>
AUTOMODELD_INLINE Floats<W> Load(const at::BFloat16* p) {
  return std::bit_cast<Floats<W>>(LoadShorts<W>(p) << 16);
}

// The exponent moves by multiplying with 2^112, which takes denormals along; infinity and NaN have the largest
// exponent.
template <int W>
AUTOMODELD_INLINE Floats<W> Load(const at::Half* p) {
  const Words<W> bits = LoadShorts<W>(p);
  const Words<W> sign = (bits & 0x8000u) << 16;
  const Floats<W> scaled = std::bit_cast<Floats<W>>((bits & 0x7fffu) << 13) * 0x1p112f;
  const Words<W> special = (bits & 0x7c00u) == 0x7c00u ? Words<W>{} + 0x7f800000u : Words<W>{};
  return std::bit_cast<Floats<W>>(std::bit_cast<Words<W>>(scaled) | special | sign);
}

// By name: GCC 12 knows the instruction but takes a conversion apart, which makes reading an FP8 cache half as fast.
// Clang takes no such wide operand in a function that is not yet inlined.
template <int W>
AUTOMODELD_INLINE Words<W> LoadBytes(const void* p) {
#if defined(__x86_64__) && !defined(__clang__)
  if constexpr (W > 4) {
    Words<W> words;
    asm("vpmovzxbd %1, %0" : "=v"(words) : "m"(*static_cast<const Bytes<W>*>(p)));
    return words;
  }
#endif
  Bytes<W> bytes;
  std::memcpy(&bytes, p, sizeof(bytes));
  return __builtin_convertvector(__builtin_convertvector(bytes, Shorts<W>), Words<W>);
}

// Exponent and fraction move to a float's place. Numbers below 2^-6 get there as 2^-6 + x, less 2^-6: a product with a
// power of two, as for Half, would meet denormal floats, which cost a hundred cycles each and are frequent here.
template <int W>
AUTOMODELD_INLINE Floats<W> Load(const at::Float8_e4m3fn* p) {
  const Words<W> bits = LoadBytes<W>(p);
  const Words<W> magnitude = (bits & 0x7fu) << 20;
  const Floats<W> small = std::bit_cast<Floats<W>>(magnitude + (121u << 23)) - 0x1p-6f;
  const Words<W> large = magnitude == (0x7fu << 20) ? Words<W>{} + 0x7fc00000u : magnitude + (120u << 23);
  const Words<W> value = magnitude < (1u << 23) ? std::bit_cast<Words<W>>(small) : large;
  return std::bit_cast<Floats<W>>(value | (bits & 0x80u) << 24);
}

inline constexpr uint32_t kInfinityBits = 0x7f800000u;  // above, without the sign: NaN

template <int W>
AUTOMODELD_INLINE void Store(float* p, Floats<W> v) {
  std::memcpy(p, &v, sizeof(v));
}

// Round to nearest, ties to even; NaN stays NaN.
template <int W>
AUTOMODELD_INLINE void Store(at::BFloat16* p, Floats<W> v) {
  const Words<W> bits = std::bit_cast<Words<W>>(v);
  const Words<W> rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Words<W> result = (bits & 0x7fffffffu) > kInfinityBits ? Words<W>{} + 0x7fc0u : rounded;
  const Shorts<W> shorts = __builtin_convertvector(result, Shorts<W>);
  std::memcpy(p, &shorts, sizeof(shorts));
}

template <int W>
AUTOMODELD_INLINE void Store(at::Half* p, Floats<W> v) {
  for (int i = 0; i < W; ++i) p[i] = static_cast<at::Half>(v[i]);
}

// Round to nearest, ties to even, of what is clamped to +-448; NaN stays NaN. Numbers below 2^-6 are multiples of 2^-9,
// to which the addition of 2^14 rounds them.
template <int W>
AUTOMODELD_INLINE void Store(at::Float8_e4m3fn* p, Floats<W> v) {
  const Words<W> bits = std::bit_cast<Words<W>>(v);
  const Words<W> sign = (bits >> 24) & 0x80u, size = bits & 0x7fffffffu;
  const Words<W> largest = Words<W>{} + std::bit_cast<uint32_t>(448.0f);
  const Words<W> clamped = size > largest ? largest : size;
  const Words<W> large = ((clamped + 0x7ffffu + ((clamped >> 20) & 1u)) >> 20) - (120u << 3);
  const Words<W> small =
      std::bit_cast<Words<W>>(std::bit_cast<Floats<W>>(clamped) + 0x1p14f) - std::bit_cast<uint32_t>(0x1p14f);
  const Words<W> code = clamped < std::bit_cast<uint32_t>(0x1p-6f) ? small : large;
  const Words<W> result = (size > kInfinityBits ? Words<W>{} + 0x7fu : code) | sign;
  const Bytes<W> bytes = __builtin_convertvector(result, Bytes<W>);
  std::memcpy(p, &bytes, sizeof(bytes));
}

// The first n of W elements; what is missing is 0.
template <int W, typename T>
AUTOMODELD_INLINE Floats<W> LoadPart(const T* p, int64_t n) {
  if (n >= W) return Load<W>(p);
  T part[W] = {};
  for (int64_t i = 0; i < n; ++i) part[i] = p[i];
  return Load<W>(part);
}

template <int W, typename T>
AUTOMODELD_INLINE void StorePart(T* p, Floats<W> v, int64_t n) {
  if (n >= W) return Store<W>(p, v);
  T part[W];
  Store<W>(part, v);
  for (int64_t i = 0; i < n; ++i) p[i] = part[i];
}

// What x becomes when it is stored as T and read again.
template <int W, typename T>
AUTOMODELD_INLINE Floats<W> RoundTo(Floats<W> x) {
  if constexpr (std::is_same_v<T, float>) return x;
  T rounded[W];
  Store<W>(rounded, x);
  return Load<W>(rounded);
}

template <int W>
AUTOMODELD_INLINE float Sum(Floats<W> v) {
  if constexpr (W == 4) {
    return (v[0] + v[2]) + (v[1] + v[3]);
  } else {
    Floats<W / 2> half[2];
    std::memcpy(half, &v, sizeof(v));
    return Sum<W / 2>(half[0] + half[1]);
  }
}

template <int W>
AUTOMODELD_INLINE float MaxOf(Floats<W> v) {
  if constexpr (W == 4) {
    const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
    return a > b ? a : b;
  } else {
    Floats<W / 2> half[2];
    std::memcpy(half, &v, sizeof(v));
    return MaxOf<W / 2>(Max<W / 2>(half[0], half[1]));
  }
}

// e^x within 2 units in the last place for x <= 88; 0 below -87.3; NaN for NaN.
template <int W>
AUTOMODELD_INLINE Floats<W> Exp(Floats<W> x) {
  constexpr float kLog2E = 1.44269504088896341f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRoundToInteger = 12582912.0f;  // 1.5 * 2^23
  constexpr float kLowest = -87.3f, kHighest = 88.7f;
  Floats<W> y = x < kLowest ? Broadcast<W>(kLowest) : x;
  y = y > kHighest ? Broadcast<W>(kHighest) : y;
  const Floats<W> n = (y * kLog2E + kRoundToInteger) - kRoundToInteger;
  const Floats<W> r = (y - n * kLn2High) - n * kLn2Low;
  Floats<W> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Ints<W> exponent = __builtin_convertvector(n, Ints<W>);
  // In two steps: 2^128 is no float, while 2^127 * 1.4 is one.
  const Ints<W> first = exponent >> 1;
  const Floats<W> scale_a = std::bit_cast<Floats<W>>((first + 127) << 23);
  const Floats<W> scale_b = std::bit_cast<Floats<W>>((exponent - first + 127) << 23);
  return x < kLowest ? Floats<W>{} : p * scale_a * scale_b;
}

namespace simd {

#if defined(__x86_64__)
template <typename Body, typename... Args>
[[gnu::target("arch=x86-64-v4")]] void RunAvx512(Args... args) {
  Body::template Run<16>(args...);
}

template <typename Body, typename... Args>
[[gnu::target("arch=x86-64-v3")]] void RunAvx2(Args... args) {
  Body::template Run<8>(args...);
}
#endif

template <typename Body, typename... Args>
void RunBaseline(Args... args) {
  Body::template Run<4>(args...);
}

}  // namespace simd

// Calls Body::Run<lanes>(args...) in the version for this machine.
template <typename Body, typename... Args>
void RunSimd(Args... args) {
#if defined(__x86_64__)
  const SimdLevel level = CurrentSimdLevel();
  if (level == SimdLevel::kAvx512) return simd::RunAvx512<Body, Args...>(args...);
  if (level == SimdLevel::kAvx2) return simd::RunAvx2<Body, Args...>(args...);
#endif
  simd::RunBaseline<Body, Args...>(args...);
}

}  // namespace automodeld

#endif  // KERNELS_CPU_SIMD_H_
