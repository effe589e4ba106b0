// y[m][n] = sum_b scale[n][b] * sum_{k in block b} x[m][k] W[n][k], the inner sums exact: a product of two e4m3 is a
// multiple of 2^-18 below 2^18, so that double holds any sum of 2^17 of them. Four rows of W and up to four of x at a
// time; W is widened once for all of these.
#include "kernels/cpu/fp8_product.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/simd.h"

namespace automodeld {
namespace {

constexpr int kTile = 4;
constexpr int64_t kBlockRows = 32;  // of x: 1 MiB at 4096 columns

template <int D>
struct WideLanes {
  typedef double Doubles __attribute__((vector_size(8 * D)));
};
template <int D>
using Doubles = typename WideLanes<D>::Doubles;

template <int D>
AUTOMODELD_INLINE Doubles<D> LoadDoubles(const double* p) {
  Doubles<D> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

// e4m3 widened; the first n of D elements, 0 for what is missing.
template <int D>
AUTOMODELD_INLINE Doubles<D> Widened(const at::Float8_e4m3fn* p, int64_t n = D) {
  return __builtin_convertvector(LoadPart<D>(p, n), Doubles<D>);
}

template <int D>
AUTOMODELD_INLINE double SumDoubles(Doubles<D> v) {
  double sum = 0;
  AUTOMODELD_UNROLL
  for (int i = 0; i < D; ++i) sum += v[i];
  return sum;
}

struct Fp8Args {
  const double* x;  // [rows, padded], zeros behind the last column
  const at::Float8_e4m3fn* weight;
  const float* scale;
  float* y;
  int64_t padded, in, out, width, blocks;  // width: columns that share a scale
};

struct Fp8Rows {
  template <int D, int M, int N>
  AUTOMODELD_INLINE static void Tile(const Fp8Args& a, int64_t m0, int64_t n0) {
    const double* x = a.x + m0 * a.padded;
    const at::Float8_e4m3fn* weight = a.weight + n0 * a.in;
    double total[M][N] = {};
    for (int64_t block = 0; block < a.blocks; ++block) {
      const int64_t begin = block * a.width, end = begin + a.width < a.in ? begin + a.width : a.in;
      Doubles<D> sum[M][N] = {};
      int64_t k = begin;
      for (; k + D <= end; k += D) {
        AUTOMODELD_UNROLL
        for (int n = 0; n < N; ++n) {
          const Doubles<D> w = Widened<D>(weight + n * a.in + k);
          AUTOMODELD_UNROLL
          for (int m = 0; m < M; ++m) sum[m][n] += w * LoadDoubles<D>(x + m * a.padded + k);
        }
      }
      for (int n = 0; k < end && n < N; ++n) {
        const Doubles<D> w = Widened<D>(weight + n * a.in + k, end - k);
        AUTOMODELD_UNROLL
        for (int m = 0; m < M; ++m) sum[m][n] += w * LoadDoubles<D>(x + m * a.padded + k);
      }
      AUTOMODELD_UNROLL
      for (int m = 0; m < M; ++m) {
        AUTOMODELD_UNROLL
        for (int n = 0; n < N; ++n) {
          total[m][n] += SumDoubles<D>(sum[m][n]) * static_cast<double>(a.scale[(n0 + n) * a.blocks + block]);
        }
      }
    }
    for (int m = 0; m < M; ++m) {
      for (int n = 0; n < N; ++n) a.y[(m0 + m) * a.out + n0 + n] = static_cast<float>(total[m][n]);
    }
  }

  template <int D, int N>
  AUTOMODELD_INLINE static void AllRows(const Fp8Args& a, int64_t begin, int64_t end, int64_t n0) {
    constexpr int kTileRows = D == 8 ? kTile : 2;  // below AVX-512 there are half the registers
    int64_t m = begin;
    for (; m + kTileRows <= end; m += kTileRows) Tile<D, kTileRows, N>(a, m, n0);
    for (; m < end; ++m) Tile<D, 1, N>(a, m, n0);
  }

  template <int W>
  AUTOMODELD_INLINE static void Run(const Fp8Args* args, int64_t row_begin, int64_t row_end, int64_t begin,
                                    int64_t end) {
    const Fp8Args a = *args;
    int64_t n = begin;
    for (; n + kTile <= end; n += kTile) AllRows<W / 2, kTile>(a, row_begin, row_end, n);
    for (; n < end; ++n) AllRows<W / 2, 1>(a, row_begin, row_end, n);
  }
};

}  // namespace

at::Tensor CpuFp8Product(const at::Tensor& x, const Fp8Weight& weight) {
  constexpr int64_t kWidest = 8;
  const int64_t rows = x.size(0), in = x.size(1), out = weight.values.size(0), blocks = weight.scale.size(1);
  const int64_t padded = (in + kWidest - 1) / kWidest * kWidest;
  const at::Tensor wide = at::constant_pad_nd(x.to(at::kDouble), {0, padded - in}).contiguous();
  const at::Tensor values = weight.values.contiguous(), scale = weight.scale.contiguous();
  at::Tensor y = at::empty({rows, out}, x.options().dtype(at::kFloat));
  const Fp8Args args{.x = wide.const_data_ptr<double>(),
                     .weight = values.const_data_ptr<at::Float8_e4m3fn>(),
                     .scale = scale.const_data_ptr<float>(),
                     .y = y.mutable_data_ptr<float>(),
                     .padded = padded,
                     .in = in,
                     .out = out,
                     .width = blocks == 1 ? in : kFp8Block,
                     .blocks = blocks};
  const int64_t row_blocks = (rows + kBlockRows - 1) / kBlockRows, wanted = 4 * int64_t{at::get_num_threads()};
  const int64_t slices = std::clamp<int64_t>(wanted / std::max<int64_t>(row_blocks, 1), 1, (out + kTile - 1) / kTile);
  at::parallel_for(0, row_blocks * slices, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / slices * kBlockRows, slice = task % slices;
      RunSimd<Fp8Rows>(&args, row, std::min(rows, row + kBlockRows), slice * out / slices, (slice + 1) * out / slices);
    }
  });
  return y;
}

}  // namespace automodeld
