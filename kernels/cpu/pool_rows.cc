// Sums, weighted sums or maxima over the rows of each item, in float32; then divided, cut and scaled to length 1.
// An item's rows are read once, a few columns at a time; its vector stays in the nearest cache.
#include "kernels/pool_rows.h"

#include <cmath>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/dispatch.h"
#include "kernels/eager/eager.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

template <typename T>
struct PoolItems {
  // NaN wins.
  template <int W>
  AUTOMODELD_INLINE static Floats<W> Larger(Floats<W> a, Floats<W> b) {
    return ((b > a) | (b != b)) ? b : a;  // NOLINT(misc-redundant-expression): b != b where it is NaN
  }

  // Of the item's rows, at the columns from x on, of which `left` are there.
  template <int W>
  AUTOMODELD_INLINE static Floats<W> Reduce(const PoolItem& item, const T* x, int64_t stride, int64_t left) {
    if (item.kind == PoolKind::kLast) x += (item.num_rows - 1) * stride;
    Floats<W> value = LoadPart<W>(x, left);
    if (item.kind == PoolKind::kFirst || item.kind == PoolKind::kLast) return value;
    const float step = item.kind == PoolKind::kWeightedMean ? 1.0f : 0.0f;
    float weight = 1.0f + step * static_cast<float>(item.position);
    value *= item.kind == PoolKind::kMax ? 1.0f : weight;
    for (int64_t row = 1; row < item.num_rows; ++row) {
      x += stride;
      weight += step;
      const Floats<W> next = LoadPart<W>(x, left);
      value = item.kind == PoolKind::kMax ? Larger<W>(value, next) : value + next * weight;
    }
    return value;
  }

  template <int W>
  AUTOMODELD_INLINE static Floats<W> Join(PoolKind kind, Floats<W> before, Floats<W> value) {
    if (kind == PoolKind::kFirst) return before;
    if (kind == PoolKind::kLast) return value;
    return kind == PoolKind::kMax ? Larger<W>(before, value) : before + value;
  }

  AUTOMODELD_INLINE static float Divisor(const PoolItem& item) {
    const auto n = static_cast<double>(item.position + item.num_rows);
    if (item.last == 0) return 1.0f;
    if (item.kind == PoolKind::kMean) return static_cast<float>(n);
    if (item.kind == PoolKind::kMeanSqrtLen) return static_cast<float>(std::sqrt(n));
    return item.kind == PoolKind::kWeightedMean ? static_cast<float>(n * (n + 1) / 2) : 1.0f;
  }

  // The vector of one item, divided and cut.
  template <int W>
  AUTOMODELD_INLINE static void Pool(const PoolArgs<T>& a, const PoolItem& item, float* vector) {
    const T* x = a.hidden + item.first_row * a.stride;
    float* kept = item.partial >= 0 ? a.partial + item.partial * a.width : nullptr;
    const float divisor = Divisor(item);
    for (int64_t i = 0; i < a.width; i += W) {
      Floats<W> value = Reduce<W>(item, x + i, a.stride, a.width - i);
      if (kept != nullptr) {
        if (item.position > 0) value = Join<W>(item.kind, LoadPart<W>(kept + i, a.width - i), value);
        StorePart<W>(kept + i, value, a.width - i);
      }
      StorePart<W>(vector + i, value / divisor, a.width - i);
    }
    const int64_t end = item.last != 0 && item.dimensions > 0 ? item.dimensions : a.width;
    for (int64_t i = end; i < a.width; ++i) vector[i] = 0.0f;
  }

  template <int W>
  AUTOMODELD_INLINE static void Normalize(float* vector, int64_t width) {
    Floats<W> squares = {};
    for (int64_t i = 0; i < width; i += W) {
      const Floats<W> value = LoadPart<W>(vector + i, width - i);
      squares += value * value;
    }
    const float length = std::sqrt(Sum<W>(squares));
    const float divisor = length < 1e-12f ? 1e-12f : length;
    for (int64_t i = 0; i < width; i += W) {
      StorePart<W>(vector + i, LoadPart<W>(vector + i, width - i) / divisor, width - i);
    }
  }

  template <int W>
  AUTOMODELD_INLINE static void Run(const PoolArgs<T>* args, int64_t begin, int64_t end) {
    const PoolArgs<T> a = *args;
    for (int64_t i = begin; i < end; ++i) {
      float* vector = a.vectors + i * a.width;
      Pool<W>(a, a.items[i], vector);
      if (a.items[i].last != 0 && a.items[i].normalize != 0) Normalize<W>(vector, a.width);
    }
  }
};

at::Tensor PoolRows(const at::Tensor& hidden, const at::Tensor& items, const std::optional<at::Tensor>& partial) {
  CheckShape("pool_rows: items", items, {items.size(0), kPoolItemSize});
  CheckType("pool_rows: items", items, at::kLong);
  const int64_t num_items = items.size(0), width = hidden.size(1);
  const at::Tensor dense = DenseRows(hidden), table = items.contiguous();
  at::Tensor vectors = at::empty({num_items, width}, hidden.options().dtype(at::kFloat));
  float* kept = nullptr;
  if (IsDefined(partial)) {
    CheckShape("pool_rows: partial", *partial, {partial->size(0), width});
    TORCH_CHECK(partial->is_contiguous(), "pool_rows: partial is not contiguous");
    kept = partial->mutable_data_ptr<float>();
  }
  DispatchFloats("pool_rows", hidden, [&](auto zero) {
    using T = decltype(zero);
    const PoolArgs<T> args{.hidden = dense.const_data_ptr<T>(),
                           .items = reinterpret_cast<const PoolItem*>(table.const_data_ptr<int64_t>()),
                           .partial = kept,
                           .vectors = vectors.mutable_data_ptr<float>(),
                           .stride = dense.stride(0),
                           .width = width};
    const int64_t rows_per_item = hidden.size(0) / std::max<int64_t>(num_items, 1) + 1;
    ForRows(num_items, rows_per_item * width,
            [&](int64_t begin, int64_t end) { RunSimd<PoolItems<T>>(&args, begin, end); });
  });
  return vectors;
}

const bool registered = RegisterKernel(&Ops::pool_rows, at::kCPU, FusedDtypes(), PoolRows, PoolRowsSamples);

}  // namespace
}  // namespace automodeld
