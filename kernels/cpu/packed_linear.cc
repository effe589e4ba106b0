// y[m][n] = act(sum_k x[m][k] W[n][k] + b[n]) in tiles of R rows and two vectors of columns, whose sums stay in
// registers. As in Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): a block of rows
// of x is turned to [tile][k][R] and stays in the second-level cache, while panels of 32 columns of W stream past it.
#include "kernels/cpu/packed_linear.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "kernels/cpu/activations.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/simd.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

constexpr int64_t kPanel = 32;     // columns
constexpr int64_t kTileRows = 12;  // 24 sums of 16 lanes, of 32 registers
constexpr int64_t kBlockRows = 9 * kTileRows;
constexpr int64_t kAhead = 16;  // steps by which W is fetched early: a panel does not fit the first-level cache

struct PackedArgs {
  const float *x, *packed, *bias;  // bias may be null
  float* y;
  int64_t in, out, x_stride;
};

// A part of the result for one thread: rows [row, row + rows), panels [first_panel, end_panel).
struct PackedBlock {
  int64_t row, rows, first_panel, end_panel;
};

// to[k][0..3] = rows[0..3][k]
AUTOMODELD_INLINE void TurnFour(const float* from, int64_t stride, int64_t in, float* to) {
  int64_t k = 0;
  for (; k + 4 <= in; k += 4) {
    const Floats<4> a = Load<4>(from + k), b = Load<4>(from + stride + k);
    const Floats<4> c = Load<4>(from + 2 * stride + k), d = Load<4>(from + 3 * stride + k);
    const Floats<4> ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const Floats<4> ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Floats<4> cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Floats<4> cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    Store<4>(to + k * kTileRows, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
    Store<4>(to + (k + 1) * kTileRows, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
    Store<4>(to + (k + 2) * kTileRows, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
    Store<4>(to + (k + 3) * kTileRows, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
  }
  for (; k < in; ++k) {
    for (int64_t r = 0; r < 4; ++r) to[k * kTileRows + r] = from[r * stride + k];
  }
}

// turned[tile][k][r] = x[tile * 12 + r][k]. Rows past the end repeat the last four, and are not stored later.
AUTOMODELD_INLINE void TurnRows(const PackedArgs& a, const PackedBlock& block, float* turned) {
  const float* x = a.x + block.row * a.x_stride;
  for (int64_t row = 0; row < block.rows; row += 4) {
    float* to = turned + row / kTileRows * a.in * kTileRows + row % kTileRows;
    if (row + 4 <= block.rows) {
      TurnFour(x + row * a.x_stride, a.x_stride, a.in, to);
      continue;
    }
    for (int64_t r = 0; r < 4; ++r) {
      const float* from = x + std::min(row + r, block.rows - 1) * a.x_stride;
      for (int64_t k = 0; k < a.in; ++k) to[k * kTileRows + r] = from[k];
    }
  }
}

template <typename Activation>
struct PackedRows {
  // R rows of one tile, from `first` on; columns [n, n + 2 W).
  template <int W, int R>
  AUTOMODELD_INLINE static void Tile(const PackedArgs& a, const float* x, const float* weight, int64_t n, float* y,
                                     int64_t rows) {
    Floats<W> sum[R][2];
    const Floats<W> left = a.bias != nullptr ? Load<W>(a.bias + n) : Floats<W>{};
    const Floats<W> right = a.bias != nullptr ? Load<W>(a.bias + n + W) : Floats<W>{};
    AUTOMODELD_UNROLL
    for (int r = 0; r < R; ++r) {
      sum[r][0] = left;
      sum[r][1] = right;
    }
    for (int64_t k = 0; k < a.in; ++k) {
      __builtin_prefetch(weight + (k + kAhead) * kPanel);
      __builtin_prefetch(weight + (k + kAhead) * kPanel + W);
      const Floats<W> b = Load<W>(weight + k * kPanel), c = Load<W>(weight + k * kPanel + W);
      AUTOMODELD_UNROLL
      for (int r = 0; r < R; ++r) {
        sum[r][0] += x[k * kTileRows + r] * b;
        sum[r][1] += x[k * kTileRows + r] * c;
      }
    }
    AUTOMODELD_UNROLL
    for (int r = 0; r < R; ++r) {
      if (r >= rows) continue;
      Store<W>(y + r * a.out + n, Activation::template Of<W>(sum[r][0]));
      Store<W>(y + r * a.out + n + W, Activation::template Of<W>(sum[r][1]));
    }
  }

  template <int W>
  AUTOMODELD_INLINE static void Run(const PackedArgs* args, const PackedBlock* part, float* turned) {
    constexpr int kRows = W == 16 ? 12 : 6;  // the narrower levels have half the registers
    const PackedArgs a = *args;
    const PackedBlock block = *part;
    TurnRows(a, block, turned);
    for (int64_t panel = block.first_panel; panel < block.end_panel; ++panel) {
      for (int64_t row = 0; row < block.rows; row += kRows) {
        const float* x = turned + row / kTileRows * a.in * kTileRows + row % kTileRows;
        float* y = a.y + (block.row + row) * a.out;
        const int64_t rows = block.rows - row;
        for (int64_t column = 0; column < kPanel; column += 2 * W) {
          const float* weight = a.packed + panel * a.in * kPanel + column;
          const int64_t n = panel * kPanel + column;
          if (rows == 1) {
            Tile<W, 1>(a, x, weight, n, y, rows);
          } else if (rows <= 4) {
            Tile<W, 4>(a, x, weight, n, y, rows);
          } else {
            Tile<W, kRows>(a, x, weight, n, y, rows);
          }
        }
      }
    }
  }
};

void RunBlock(const PackedArgs& args, const PackedBlock& block, const std::string& activation, float* turned) {
  if (activation.empty()) return RunSimd<PackedRows<Identity>>(&args, &block, turned);
  if (activation == "relu") return RunSimd<PackedRows<Relu>>(&args, &block, turned);
  if (activation == "silu") return RunSimd<PackedRows<Silu>>(&args, &block, turned);
  if (activation == "gelu") return RunSimd<PackedRows<Gelu>>(&args, &block, turned);
  if (activation == "gelu_tanh") return RunSimd<PackedRows<GeluTanh>>(&args, &block, turned);
  TORCH_CHECK(false, "linear: activation \"", activation, "\" is not one of silu, gelu, gelu_tanh, relu");
}

}  // namespace

bool CanPackLinear(const at::Tensor& weight) {
  return weight.is_cpu() && weight.scalar_type() == at::kFloat && weight.dim() == 2 && weight.size(0) % kPanel == 0;
}

at::Tensor PackLinear(const at::Tensor& weight) {
  return weight.view({weight.size(0) / kPanel, kPanel, weight.size(1)}).transpose(1, 2).contiguous();
}

at::Tensor PackedLinear(const at::Tensor& x, const at::Tensor& packed, const std::optional<at::Tensor>& bias,
                        const std::string& activation) {
  const int64_t rows = x.size(0), in = packed.size(1), panels = packed.size(0), out = panels * kPanel;
  TORCH_CHECK(x.dim() == 2 && x.size(1) == in && x.scalar_type() == at::kFloat, "linear: x ", x.sizes(),
              ", expected [tokens, ", in, "] of float32");
  const at::Tensor dense = DenseRows(x), offset = IsDefined(bias) ? bias->contiguous() : at::Tensor();
  if (offset.defined()) CheckShape("linear: bias", offset, {out});
  at::Tensor y = at::empty({rows, out}, x.options());
  const PackedArgs args{.x = dense.const_data_ptr<float>(),
                        .packed = packed.const_data_ptr<float>(),
                        .bias = offset.defined() ? offset.const_data_ptr<float>() : nullptr,
                        .y = y.mutable_data_ptr<float>(),
                        .in = in,
                        .out = out,
                        .x_stride = dense.stride(0)};
  // Few rows are shared out by columns.
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows, wanted = 2 * int64_t{at::get_num_threads()};
  const int64_t slices = std::clamp<int64_t>((wanted + blocks - 1) / std::max<int64_t>(blocks, 1), 1, panels);
  at::parallel_for(0, blocks * slices, 1, [&](int64_t begin, int64_t end) {
    float* turned = ThreadScratch(std::min(rows + kTileRows, kBlockRows) * in);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / slices * kBlockRows, slice = task % slices;
      const PackedBlock block{.row = row,
                              .rows = std::min(kBlockRows, rows - row),
                              .first_panel = slice * panels / slices,
                              .end_panel = (slice + 1) * panels / slices};
      RunBlock(args, block, activation, turned);
    }
  });
  return y;
}

}  // namespace automodeld
