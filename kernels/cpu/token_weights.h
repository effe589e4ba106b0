// The vector loops of sampling on the CPU: a row's range, and its weights as kernels/sampling.h defines them.
#ifndef KERNELS_CPU_TOKEN_WEIGHTS_H_
#define KERNELS_CPU_TOKEN_WEIGHTS_H_

#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/cpu/simd.h"

namespace automodeld {

template <int W>
struct DoubleLanes {
  typedef double Doubles __attribute__((vector_size(8 * W)));
  typedef int64_t Longs __attribute__((vector_size(8 * W)));
};
template <int W>
using Doubles = typename DoubleLanes<W>::Doubles;
template <int W>
using Longs = typename DoubleLanes<W>::Longs;

struct LogitRange {
  float largest = -std::numeric_limits<float>::infinity();
  float smallest = std::numeric_limits<float>::infinity();
  bool has_nan = false;
};

template <typename T>
struct FindRange {
  template <int W>
  AUTOMODELD_INLINE static void Run(const T* logits, int64_t n, LogitRange* range) {
    Floats<W> most = Broadcast<W>(range->largest), least = Broadcast<W>(range->smallest);
    Ints<W> nan = {};
    int64_t i = 0;
    for (; i + W <= n; i += W) {
      const Floats<W> x = Load<W>(logits + i);
      most = Max<W>(x, most);
      least = -Max<W>(-x, -least);
      nan |= x != x;
    }
    range->largest = MaxOf<W>(most);
    range->smallest = -MaxOf<W>(-least);
    for (int lane = 0; lane < W; ++lane) range->has_nan |= nan[lane] != 0;
    for (; i < n; ++i) {
      const auto x = static_cast<float>(logits[i]);
      range->largest = x > range->largest ? x : range->largest;
      range->smallest = x < range->smallest ? x : range->smallest;
      range->has_nan |= x != x;
    }
  }
};

// round(2^40 e^x) for x <= 0, within 2 units in the last place of e^x before it is rounded; 0 below -28.5 and for NaN.
template <int W>
AUTOMODELD_INLINE Longs<W> Weight(Doubles<W> x) {
  constexpr double kLog2E = 1.4426950408889634, kLn2High = 0x1.62e42fefa38p-1, kLn2Low = 0x1.ef35793c7673p-45;
  constexpr double kRoundToInteger = 0x1.8p52, kLowest = -28.5;  // e^-28.5 < 2^-41
  constexpr int64_t kIntegerBits = std::bit_cast<int64_t>(kRoundToInteger), kExponentOfOne = 1023 + 40;
  constexpr double kInverseFactorials[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
      1.0 / 720,        1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0};
  const Doubles<W> shifted = x * kLog2E + kRoundToInteger;
  const Doubles<W> n = shifted - kRoundToInteger;
  const Doubles<W> r = (x - n * kLn2High) - n * kLn2Low;
  Doubles<W> p = r * kInverseFactorials[0] + kInverseFactorials[1];
  AUTOMODELD_UNROLL
  for (int i = 2; i < 13; ++i) p = p * r + kInverseFactorials[i];
  p = p * r + 1.0;
  const Longs<W> exponent = std::bit_cast<Longs<W>>(shifted) - kIntegerBits + kExponentOfOne;
  const Doubles<W> weight = p * std::bit_cast<Doubles<W>>(exponent << 52) + kRoundToInteger;
  return x >= kLowest ? std::bit_cast<Longs<W>>(weight) - kIntegerBits : Longs<W>{};
}

// weights[i] of logits[i], for a finite largest logit.
template <typename T>
struct FindWeights {
  template <int W>
  AUTOMODELD_INLINE static void Run(const T* logits, int64_t n, float largest, double temperature, int64_t* weights) {
    constexpr int kLanes = W / 2;
    for (int64_t i = 0; i < n; i += kLanes) {
      const Doubles<kLanes> x = __builtin_convertvector(LoadPart<kLanes>(logits + i, n - i), Doubles<kLanes>);
      const Longs<kLanes> weight = Weight<kLanes>((x - static_cast<double>(largest)) / temperature);
      if (i + kLanes <= n) {
        std::memcpy(weights + i, &weight, sizeof(weight));
      } else {
        for (int lane = 0; i + lane < n; ++lane) weights[i + lane] = weight[lane];
      }
    }
  }
};

// The sum of the weights that are at least `least`.
struct SumWeights {
  template <int W>
  AUTOMODELD_INLINE static void Run(const int64_t* weights, int64_t n, int64_t least, int64_t* sum) {
    constexpr int kLanes = W / 2;
    Longs<kLanes> sums = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      Longs<kLanes> w;
      std::memcpy(&w, weights + i, sizeof(w));
      sums += w >= least ? w : Longs<kLanes>{};
    }
    *sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) *sum += sums[lane];
    for (; i < n; ++i) *sum += weights[i] >= least ? weights[i] : 0;
  }
};

}  // namespace automodeld

#endif  // KERNELS_CPU_TOKEN_WEIGHTS_H_
