// What rms_norm and layer_norm share: s = x + residual; y = a norm of s over the row, rounded to s's type, quantised if
// asked.
//
//   return NormalizeRows<Rms>(x, residual, weight, /*bias=*/at::Tensor(), eps, quantize);
//
// A Norm says with kCentred whether the mean is taken off, and has
//   template <typename T> static __device__ T Of(float centred, float scale, T weight, T bias);
// A block takes a row and keeps it in registers up to a width of 16,384; beyond, and off borders of 16 bytes, each
// thread reads again what it wrote. How a row is summed follows from its width alone.
#ifndef KERNELS_CUDA_ROW_NORM_H_
#define KERNELS_CUDA_ROW_NORM_H_

#include <algorithm>
#include <optional>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/rounding.h"
#include "kernels/cuda/row_quantize.h"
#include "kernels/cuda/row_reduce.h"
#include "kernels/dispatch.h"
#include "kernels/ops.h"
#include "kernels/tensors.h"

namespace automodeld {

inline constexpr int kNormThreads = 512;

template <typename T>
struct RowNormArgs {
  const T *x, *residual, *weight, *bias;  // residual may be null, and then sum is null and not written; so may bias
  T *sum, *y;                             // y is null where values and scale are not
  uint8_t* values;
  float* scale;
  int64_t x_stride, residual_stride;
  int width;
  float inverse_width, eps;
};

template <typename T>
__device__ T Added(T x, T residual) {
  return RoundTo<T>(static_cast<float>(x) + static_cast<float>(residual));
}

// A thread's part of a row: N packs of W elements, blockDim.x packs apart.
template <typename T, int W, int N>
struct RowPart {
  Pack<T, W> packs[N];

  // Where pack n begins; the row's width or more where there is none.
  static __device__ int Begin(int n) { return (n * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * W; }

  __device__ void LoadFrom(const T* row, int width) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (Begin(n) < width) packs[n] = Load<T, W>(row + Begin(n));
    }
  }

  // Calls visit(n, j) for each element of the row that this thread has.
  template <typename Visit>
  static __device__ void ForEach(int width, Visit visit) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (Begin(n) >= width) continue;
#pragma unroll
      for (int j = 0; j < W; ++j) visit(n, j);
    }
  }

  __device__ void StoreTo(T* row, int width) const {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (Begin(n) < width) Store(row + Begin(n), packs[n]);
    }
  }
};

// The width is a multiple of W and at most N * blockDim.x * W; every row begins on a border of W elements.
template <typename Norm, typename T, int W, int N>
__global__ void __launch_bounds__(kNormThreads, N > 2 ? 1 : 4 / N) row_norm_kernel(const RowNormArgs<T> a) {
  using Part = RowPart<T, W, N>;
  __shared__ float sums[2][kMaxWarps];
  __shared__ float maxima[kMaxWarps];
  AllowNext();
  Part s, residual, weight, bias;
  weight.LoadFrom(a.weight, a.width);
  if (Norm::kCentred) bias.LoadFrom(a.bias, a.width);
  AwaitPrevious();
  const int64_t row = blockIdx.x;
  s.LoadFrom(a.x + row * a.x_stride, a.width);
  if (a.residual != nullptr) {
    residual.LoadFrom(a.residual + row * a.residual_stride, a.width);
    Part::ForEach(a.width, [&](int n, int j) { s.packs[n][j] = Added(s.packs[n][j], residual.packs[n][j]); });
    s.StoreTo(a.sum + row * a.width, a.width);
  }
  float mean = 0, squares = 0;
  if (Norm::kCentred) {
    Part::ForEach(a.width, [&](int n, int j) { mean += static_cast<float>(s.packs[n][j]); });
    mean = BlockSum(mean, sums[0]) * a.inverse_width;
  }
  Part::ForEach(a.width, [&](int n, int j) {
    const float centred = static_cast<float>(s.packs[n][j]) - mean;
    squares += centred * centred;
  });
  const float scale = rsqrtf(BlockSum(squares, sums[1]) * a.inverse_width + a.eps);
  float largest = 0;
  Part::ForEach(a.width, [&](int n, int j) {
    T& y = s.packs[n][j];
    y = Norm::template Of<T>(static_cast<float>(y) - mean, scale, weight.packs[n][j],
                             Norm::kCentred ? bias.packs[n][j] : T{});
    largest = Larger(largest, y);
  });
  if (a.y != nullptr) return s.StoreTo(a.y + row * a.width, a.width);
  const RowScale row_scale(BlockMax(largest, maxima));
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const int i = Part::Begin(n);
    if (i < a.width) Store(a.values + row * a.width + i, row_scale.Quantized(s.packs[n]));
  }
  if (threadIdx.x == 0) a.scale[row] = row_scale.scale();
}

// Of any width and alignment.
template <typename Norm, typename T>
__global__ void __launch_bounds__(kNormThreads) any_row_norm_kernel(const RowNormArgs<T> a) {
  __shared__ float sums[2][kMaxWarps];
  __shared__ float maxima[kMaxWarps];
  AllowNext();
  AwaitPrevious();
  const int64_t row = blockIdx.x;
  const T* s = a.x + row * a.x_stride;
  const auto for_each = [&](auto visit) {
    for (int i = static_cast<int>(threadIdx.x); i < a.width; i += static_cast<int>(blockDim.x)) visit(i);
  };
  if (a.residual != nullptr) {
    T* sum = a.sum + row * a.width;
    for_each([&](int i) { sum[i] = Added(s[i], a.residual[row * a.residual_stride + i]); });
    s = sum;
  }
  float mean = 0, squares = 0;
  if (Norm::kCentred) {
    for_each([&](int i) { mean += static_cast<float>(s[i]); });
    mean = BlockSum(mean, sums[0]) * a.inverse_width;
  }
  for_each([&](int i) {
    const float centred = static_cast<float>(s[i]) - mean;
    squares += centred * centred;
  });
  const float scale = rsqrtf(BlockSum(squares, sums[1]) * a.inverse_width + a.eps);
  const auto normal = [&](int i) {
    return Norm::template Of<T>(static_cast<float>(s[i]) - mean, scale, a.weight[i], Norm::kCentred ? a.bias[i] : T{});
  };
  if (a.y != nullptr) return for_each([&](int i) { a.y[row * a.width + i] = normal(i); });
  float largest = 0;
  for_each([&](int i) { largest = Larger(largest, normal(i)); });
  const RowScale row_scale(BlockMax(largest, maxima));
  for_each([&](int i) { a.values[row * a.width + i] = row_scale.Quantized(Pack<T, 1>{normal(i)})[0]; });
  if (threadIdx.x == 0) a.scale[row] = row_scale.scale();
}

template <typename Norm, typename T>
void LaunchRowNorm(const RowNormArgs<T>& a, int64_t rows) {
  constexpr int kWide = 16 / sizeof(T), kMostPacks = kWide == 4 ? 8 : 4;
  const bool aligned = Aligned16(a.x, a.residual, a.weight, a.bias, a.sum, a.y, a.values) &&
                       (a.width | a.x_stride | a.residual_stride) % kWide == 0;
  const int64_t packs = a.width / kWide;
  const auto grid = static_cast<unsigned>(rows);
  if (!aligned || packs > kMostPacks * kNormThreads) {
    return Launch(any_row_norm_kernel<Norm, T>, grid, kNormThreads, 0, a);
  }
  auto kernel = row_norm_kernel<Norm, T, kWide, kMostPacks>;
  if (packs <= kNormThreads) {
    kernel = row_norm_kernel<Norm, T, kWide, 1>;
  } else if (packs <= 2 * kNormThreads) {
    kernel = row_norm_kernel<Norm, T, kWide, 2>;
  } else if (packs <= 4 * kNormThreads) {
    kernel = row_norm_kernel<Norm, T, kWide, 4>;
  }
  const int64_t warps = (packs + kWarp - 1) / kWarp;
  Launch(kernel, grid, static_cast<unsigned>(std::min<int64_t>(warps * kWarp, kNormThreads)), 0, a);
}

// x: [rows, width], not empty, of a type that DispatchFloats knows; weight and bias (which may be undefined): [width],
// of x's type. `name` is the op's, for errors.
template <typename Norm>
NormResult NormalizeRows(const std::string& name, const at::Tensor& x, const std::optional<at::Tensor>& residual,
                         const at::Tensor& weight, const at::Tensor& bias, double eps, bool quantize) {
  const int64_t rows = x.size(0), width = x.size(1);
  CheckShape((name + ": weight").c_str(), weight, {width});
  if (bias.defined()) CheckShape((name + ": bias").c_str(), bias, {width});
  TORCH_CHECK(std::max(rows, width) <= INT32_MAX, name, ": x has shape ", x.sizes());
  const c10::DeviceGuard guard(x.device());
  const at::Tensor dense_x = DenseRows(x), dense_weight = weight.contiguous();
  const at::Tensor dense_bias = bias.defined() ? bias.contiguous() : bias;
  const at::Tensor y = at::empty({rows, width}, quantize ? x.options().dtype(at::kFloat8_e4m3fn) : x.options());
  at::Tensor sum = x, dense_residual, scale;
  if (quantize) scale = at::empty({rows, 1}, x.options().dtype(at::kFloat));
  if (IsDefined(residual)) {
    CheckShape((name + ": residual").c_str(), *residual, x.sizes());
    CheckType((name + ": residual").c_str(), *residual, x.scalar_type());
    dense_residual = DenseRows(*residual);
    sum = at::empty({rows, width}, x.options());
  }
  DispatchFloats(name.c_str(), x, [&](auto zero) {
    using T = decltype(zero);
    const bool add = dense_residual.defined();
    const RowNormArgs<T> args{.x = dense_x.const_data_ptr<T>(),
                              .residual = add ? dense_residual.const_data_ptr<T>() : nullptr,
                              .weight = dense_weight.const_data_ptr<T>(),
                              .bias = dense_bias.defined() ? dense_bias.const_data_ptr<T>() : nullptr,
                              .sum = add ? sum.mutable_data_ptr<T>() : nullptr,
                              .y = quantize ? nullptr : y.mutable_data_ptr<T>(),
                              .values = quantize ? static_cast<uint8_t*>(y.mutable_data_ptr()) : nullptr,
                              .scale = quantize ? scale.mutable_data_ptr<float>() : nullptr,
                              .x_stride = dense_x.stride(0),
                              .residual_stride = add ? dense_residual.stride(0) : 0,
                              .width = static_cast<int>(width),
                              .inverse_width = 1.0F / static_cast<float>(width),
                              .eps = static_cast<float>(eps)};
    LaunchRowNorm<Norm, T>(args, rows);
  });
  return {y, scale, sum};
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_ROW_NORM_H_
