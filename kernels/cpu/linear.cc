// Up to 16 rows: y[m][n] = sum_k x[m][k] W[n][k] straight from W, four rows of W and up to four of x at a time; W is
// read once, at memory speed. More rows in float32: 16 at a time. More rows of 16-bit weights: panels of W are widened
// to float32 in a thread's own cache and multiplied there by libtorch.
#include "kernels/cpu/linear.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/dispatch.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

constexpr int64_t kFewRows = 16;
constexpr int64_t kPanelRows = 64;  // of W: 256 KiB in float32 at 1024 columns
constexpr int kTile = 4;

// Two vectors from 2 W elements, in whatever order is cheapest; x and W are loaded alike, so that products match.
template <int W, typename T>
AUTOMODELD_INLINE void LoadTwo(const T* p, Floats<W>& a, Floats<W>& b) {
  if constexpr (std::is_same_v<T, at::BFloat16>) {
    Words<W> pairs;
    std::memcpy(&pairs, p, sizeof(pairs));
    a = std::bit_cast<Floats<W>>(pairs << 16);
    b = std::bit_cast<Floats<W>>(pairs & 0xffff0000u);
  } else {
    a = Load<W>(p);
    b = Load<W>(p + W);
  }
}

// The same for the last n < 2 W elements: 0 stands for what is missing.
template <int W, typename T>
AUTOMODELD_INLINE void LoadTwoPart(const T* p, int64_t n, Floats<W>& a, Floats<W>& b) {
  T part[2 * W] = {};
  for (int64_t i = 0; i < n; ++i) part[i] = p[i];
  LoadTwo<W>(part, a, b);
}

template <typename T>
struct LinearArgs {
  const T *x, *weight, *bias;  // bias may be null
  T* y;
  float* packed;  // x as LoadTwo gives it: [rows, packed_width]
  int64_t rows, in, out, packed_width, x_stride;
};

template <typename T>
struct PackRows {
  template <int W>
  AUTOMODELD_INLINE static void Run(const LinearArgs<T>* args) {
    for (int64_t m = 0; m < args->rows; ++m) {
      const T* x = args->x + m * args->x_stride;
      float* to = args->packed + m * args->packed_width;
      for (int64_t k = 0; k < args->in; k += 2 * W) {
        Floats<W> a, b;
        if (k + 2 * W <= args->in) {
          LoadTwo<W>(x + k, a, b);
        } else {
          LoadTwoPart<W>(x + k, args->in - k, a, b);
        }
        Store<W>(to + k, a);
        Store<W>(to + k + W, b);
      }
    }
  }
};

template <typename T>
struct LinearRows {
  // y for M rows of x and N of W.
  template <int W, int M, int N>
  AUTOMODELD_INLINE static void Tile(const LinearArgs<T>& a, int64_t m0, int64_t n0) {
    const float* x = a.packed + m0 * a.packed_width;
    const T* weight = a.weight + n0 * a.in;
    Floats<W> sum[M][N] = {};
    int64_t k = 0;
    for (; k + 2 * W <= a.in; k += 2 * W) {
      AUTOMODELD_UNROLL
      for (int n = 0; n < N; ++n) {
        Floats<W> first, second;
        LoadTwo<W>(weight + n * a.in + k, first, second);
        AUTOMODELD_UNROLL
        for (int m = 0; m < M; ++m) {
          sum[m][n] += first * Load<W>(x + m * a.packed_width + k);
          sum[m][n] += second * Load<W>(x + m * a.packed_width + k + W);
        }
      }
    }
    for (int n = 0; k < a.in && n < N; ++n) {
      Floats<W> first, second;
      LoadTwoPart<W>(weight + n * a.in + k, a.in - k, first, second);
      AUTOMODELD_UNROLL
      for (int m = 0; m < M; ++m) {
        sum[m][n] += first * Load<W>(x + m * a.packed_width + k);
        sum[m][n] += second * Load<W>(x + m * a.packed_width + k + W);
      }
    }
    AUTOMODELD_UNROLL
    for (int m = 0; m < M; ++m) {
      AUTOMODELD_UNROLL
      for (int n = 0; n < N; ++n) {
        const float bias = a.bias != nullptr ? static_cast<float>(a.bias[n0 + n]) : 0.0f;
        a.y[(m0 + m) * a.out + n0 + n] = static_cast<T>(Sum<W>(sum[m][n]) + bias);
      }
    }
  }

  template <int W, int N>
  AUTOMODELD_INLINE static void AllRows(const LinearArgs<T>& a, int64_t n0) {
    constexpr int kTileRows = W == 8 ? 2 : kTile;  // AVX2 has half the registers
    int64_t m = 0;
    for (; m + kTileRows <= a.rows; m += kTileRows) Tile<W, kTileRows, N>(a, m, n0);
    for (; m < a.rows; ++m) Tile<W, 1, N>(a, m, n0);
  }

  template <int W>
  AUTOMODELD_INLINE static void Run(const LinearArgs<T>* args, int64_t begin, int64_t end) {
    const LinearArgs<T> a = *args;
    int64_t n = begin;
    for (; n + kTile <= end; n += kTile) AllRows<W, kTile>(a, n);
    for (; n < end; ++n) AllRows<W, 1>(a, n);
  }
};

template <typename T>
struct WidenRows {
  template <int W>
  AUTOMODELD_INLINE static void Run(const T* from, float* to, int64_t n) {
    int64_t i = 0;
    for (; i + W <= n; i += W) Store<W>(to + i, Load<W>(from + i));
    for (; i < n; ++i) to[i] = static_cast<float>(from[i]);
  }
};

template <typename T>
void FewRows(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, at::Tensor& y) {
  constexpr int64_t kWidest = 32;  // 2 W elements of the widest level
  const int64_t packed_width = (x.size(1) + kWidest - 1) / kWidest * kWidest;
  std::vector<float> packed(static_cast<size_t>(x.size(0) * packed_width));
  const LinearArgs<T> args{.x = x.const_data_ptr<T>(),
                           .weight = weight.const_data_ptr<T>(),
                           .bias = bias.defined() ? bias.const_data_ptr<T>() : nullptr,
                           .y = y.mutable_data_ptr<T>(),
                           .packed = packed.data(),
                           .rows = x.size(0),
                           .in = x.size(1),
                           .out = weight.size(0),
                           .packed_width = packed_width,
                           .x_stride = x.stride(0)};
  RunSimd<PackRows<T>>(&args);
  ForRows(weight.size(0), x.size(1) * std::max<int64_t>(1, x.size(0) / 2),
          [&](int64_t begin, int64_t end) { RunSimd<LinearRows<T>>(&args, begin, end); });
}

template <typename T>
void ManyRows(const at::Tensor& x, const at::Tensor& weight, at::Tensor& y) {
  const at::Tensor wide = x.to(at::kFloat);
  const int64_t in = weight.size(1), out = weight.size(0), panels = (out + kPanelRows - 1) / kPanelRows;
  at::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
    const c10::InferenceMode inference;
    const at::Tensor panel = at::empty({kPanelRows, in}, wide.options());
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * kPanelRows, rows = std::min(kPanelRows, out - first);
      RunSimd<WidenRows<T>>(weight.const_data_ptr<T>() + first * in, panel.mutable_data_ptr<float>(), rows * in);
      y.narrow(1, first, rows).copy_(at::mm(wide, panel.narrow(0, 0, rows).t()));
    }
  });
}

// Processors with 16-bit products run large bfloat16 multiplications many times faster through libtorch.
bool HasSixteenBitArithmetic() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return true;
#endif
}

}  // namespace

bool IsForCpuLinear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const at::ScalarType type = x.scalar_type();
  const bool known = type == at::kFloat || type == at::kBFloat16 || type == at::kHalf;
  if (!x.is_cpu() || !known || x.dim() != 2 || x.size(0) == 0 || x.size(1) != weight.size(1)) return false;
  if (weight.scalar_type() != type || !weight.is_contiguous()) return false;
  if (IsDefined(bias) && (bias->scalar_type() != type || bias->numel() != weight.size(0))) return false;
  return x.size(0) <= kFewRows || type == at::kFloat || (type == at::kBFloat16 && !HasSixteenBitArithmetic());
}

at::Tensor CpuLinear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const at::Tensor dense = DenseRows(x), offset = IsDefined(bias) ? bias->contiguous() : at::Tensor();
  at::Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
  if (x.size(0) <= kFewRows || x.scalar_type() == at::kFloat) {
    for (int64_t row = 0; row < x.size(0); row += kFewRows) {
      const int64_t rows = std::min(kFewRows, x.size(0) - row);
      at::Tensor part = y.narrow(0, row, rows);
      DispatchFloats("linear", x,
                     [&](auto zero) { FewRows<decltype(zero)>(dense.narrow(0, row, rows), weight, offset, part); });
    }
    return y;
  }
  TORCH_CHECK(x.scalar_type() == at::kBFloat16, "linear: ", x.size(0), " rows of ", x.scalar_type(),
              ", expected BFloat16 above ", kFewRows, " rows");
  ManyRows<at::BFloat16>(dense, weight, y);
  return offset.defined() ? y.add_(offset) : y;
}

}  // namespace automodeld
