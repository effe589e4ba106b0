// As sentence-transformers' Pooling, truncate_dim and Normalize. Weighted means are those of SGPT.
#include "kernels/pool_rows.h"

#include <cmath>

#include "kernels/eager/eager.h"
#include "kernels/tensors.h"

namespace automodeld::eager {
namespace {

// Of these rows alone, not divided. x: [rows, n] float32.
at::Tensor Reduce(const PoolItem& item, const at::Tensor& x) {
  switch (item.kind) {
    case PoolKind::kWeightedMean: {
      const at::Tensor weights = at::arange(item.position + 1, item.position + 1 + x.size(0), x.options());
      return (x * weights.unsqueeze(1)).sum(0);
    }
    case PoolKind::kMax:
      return x.amax(0);
    case PoolKind::kFirst:
      return x[0];
    case PoolKind::kLast:
      return x[-1];
    default:
      return x.sum(0);
  }
}

at::Tensor Join(PoolKind kind, const at::Tensor& before, const at::Tensor& value) {
  if (kind == PoolKind::kFirst) return before;
  if (kind == PoolKind::kLast) return value;
  return kind == PoolKind::kMax ? at::maximum(before, value) : before + value;
}

at::Tensor Divide(const PoolItem& item, const at::Tensor& value) {
  const auto n = static_cast<double>(item.position + item.num_rows);
  if (item.kind == PoolKind::kMean) return value / n;
  if (item.kind == PoolKind::kMeanSqrtLen) return value / std::sqrt(n);
  return item.kind == PoolKind::kWeightedMean ? value / (n * (n + 1) / 2) : value;
}

at::Tensor Finish(const PoolItem& item, const at::Tensor& sum) {
  at::Tensor value = Divide(item, sum);
  if (item.dimensions > 0) value = value.narrow(0, 0, item.dimensions);
  return item.normalize != 0 ? value / value.norm().clamp_min(1e-12) : value;
}

}  // namespace

at::Tensor PoolRows(const at::Tensor& hidden, const at::Tensor& items, const std::optional<at::Tensor>& partial) {
  CheckShape("pool_rows: items", items, {items.size(0), kPoolItemSize});
  const at::Tensor table = items.to(at::kCPU, at::kLong).contiguous();
  const auto* item = reinterpret_cast<const PoolItem*>(table.const_data_ptr<int64_t>());
  at::Tensor vectors = at::zeros({items.size(0), hidden.size(1)}, hidden.options().dtype(at::kFloat));
  for (int64_t i = 0; i < items.size(0); ++i, ++item) {
    at::Tensor value = Reduce(*item, hidden.narrow(0, item->first_row, item->num_rows).to(at::kFloat));
    if (item->partial >= 0) {
      at::Tensor kept = partial->select(0, item->partial);
      if (item->position > 0) value = Join(item->kind, kept, value);
      kept.copy_(value);
    }
    if (item->last != 0) value = Finish(*item, value);
    vectors[i].narrow(0, 0, value.size(0)).copy_(value);
  }
  return vectors;
}

}  // namespace automodeld::eager
