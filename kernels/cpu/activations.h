// Activations on vectors:
//   silu(x) = x / (1 + e^-x);  gelu(x) = x / 2 (1 + erf(x / sqrt 2));  gelu_tanh(x) = x / (1 + e^(-2 u)),
//   u = sqrt(2 / pi) (x + 0.044715 x^3);  relu(x) = max(x, 0).
#ifndef KERNELS_CPU_ACTIVATIONS_H_
#define KERNELS_CPU_ACTIVATIONS_H_

#include "kernels/cpu/simd.h"

namespace automodeld {

struct Identity {
  template <int W>
  AUTOMODELD_INLINE static Floats<W> Of(Floats<W> x) {
    return x;
  }
};

struct Relu {
  template <int W>
  AUTOMODELD_INLINE static Floats<W> Of(Floats<W> x) {
    return x < 0.0f ? Floats<W>{} : x;  // NaN stays
  }
};

struct Silu {
  template <int W>
  AUTOMODELD_INLINE static Floats<W> Of(Floats<W> x) {
    return x / (Exp<W>(-x) + 1.0f);
  }
};

struct GeluTanh {
  template <int W>
  AUTOMODELD_INLINE static Floats<W> Of(Floats<W> x) {
    constexpr float kTwiceSqrtTwoOverPi = 1.5957691216057308f, kCubic = 0.044715f;
    return x / (Exp<W>((x + x * x * x * kCubic) * -kTwiceSqrtTwoOverPi) + 1.0f);
  }
};

// erf by Abramowitz and Stegun 7.1.26, within 1.5e-7.
struct Gelu {
  template <int W>
  AUTOMODELD_INLINE static Floats<W> Of(Floats<W> x) {
    constexpr float kSqrtHalf = 0.70710678118654752f;
    const Floats<W> z = (x < 0.0f ? -x : x) * kSqrtHalf;
    const Floats<W> t = 1.0f / (z * 0.3275911f + 1.0f);
    Floats<W> p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const Floats<W> tail = p * t * Exp<W>(-z * z);  // 1 - erf(|x| / sqrt 2)
    return x * 0.5f * (x < 0.0f ? tail : 2.0f - tail);
  }
};

}  // namespace automodeld

#endif  // KERNELS_CPU_ACTIVATIONS_H_
