// What pool_rows is tried on: every kind with and without chunks, one row, odd widths, rows apart, thousands of items.
#include <fmt/format.h>

#include <vector>

#include "kernels/op_samples.h"
#include "kernels/pool_rows.h"

namespace automodeld {
namespace {

constexpr int64_t kKinds = 6;

struct PoolCase {
  int64_t items, longest, width;
  bool chunks = false;
  enum { kDense, kStrided, kMisaligned } layout = kDense;
};

// Lengths and kinds in turn, the rest as if by chance; with `chunks` most items go on, or have begun earlier. Positions
// stay small, because a weighted sum that is not divided is as inexact as its weights are large.
std::vector<PoolItem> MakeItems(const PoolCase& c) {
  std::vector<PoolItem> items;
  int64_t row = 0;
  for (int64_t i = 0; i < c.items; ++i) {
    const int64_t chance = (i * i * 7919 + i * 104729 + 12345) % 65521;
    PoolItem item{.first_row = row,
                  .num_rows = 1 + (i * 7 + c.longest - 1) % c.longest,
                  .kind = static_cast<PoolKind>(i % kKinds),
                  .dimensions = chance % 5 == 3 ? 1 + i % c.width : 0,
                  .normalize = chance / 5 % 2};
    if (c.chunks) {
      item.position = 5 * (chance / 10 % 3);
      item.partial = c.items - 1 - i;
      item.last = chance / 30 % 2;
    }
    row += item.num_rows;
    items.push_back(item);
  }
  return items;
}

SampleResult RunPool(const PoolCase& c, const Ops& ops, SampleTensors& make) {
  const std::vector<PoolItem> items = MakeItems(c);
  const int64_t rows = items.empty() ? 1 : items.back().first_row + items.back().num_rows;
  const std::vector<int64_t> sizes = {rows, c.width};
  const at::Tensor hidden = c.layout == PoolCase::kStrided      ? make.Strided(sizes)
                            : c.layout == PoolCase::kMisaligned ? make.Misaligned(sizes)
                                                                : make.Normal(sizes, 0.25);
  const auto numbers = NumbersOf(items);
  const at::Tensor table = at::tensor(at::ArrayRef<int64_t>(numbers.data(), numbers.size()), at::kLong)
                               .view({c.items, kPoolItemSize})
                               .to(hidden.device());
  std::optional<at::Tensor> partial;
  if (c.chunks) partial = make.Float({c.items, c.width});
  const at::Tensor vectors = ops.pool_rows(hidden, table, partial);
  return c.chunks ? SampleResult{vectors, *partial} : SampleResult{vectors};
}

Sample PoolSample(const PoolCase& c) {
  const std::string name = fmt::format("{} items of up to {} rows of {}{}{}", c.items, c.longest, c.width,
                                       c.chunks ? ", chunks" : "", c.layout == PoolCase::kDense ? "" : ", odd layout");
  return {name, c.items * (c.longest / 2 + 2) * c.width,
          [c](const Ops& ops, SampleTensors& make) { return RunPool(c, ops, make); }};
}

}  // namespace

std::vector<Sample> PoolRowsSamples() {
  return {PoolSample({0, 1, 64}),
          PoolSample({1, 1, 1}),
          PoolSample({1, 20, 384}),
          PoolSample({12, 1, 384}),
          PoolSample({12, 20, 384}),
          PoolSample({24, 17, 33, true}),
          PoolSample({24, 300, 129}),
          PoolSample({13, 9, 4099, true}),
          PoolSample({36, 12, 1024, true}),
          PoolSample({12, 11, 384, false, PoolCase::kStrided}),
          PoolSample({12, 11, 77, true, PoolCase::kMisaligned}),
          PoolSample({12, 11, 1024, true, PoolCase::kMisaligned}),
          PoolSample({6, 600, 64}),
          PoolSample({3000, 3, 40, true})};
}

std::vector<Sample> ModelPoolRowsSamples(int64_t hidden_size) {
  return {PoolSample({12, 3, hidden_size}), PoolSample({12, 3, hidden_size, true})};
}

}  // namespace automodeld
