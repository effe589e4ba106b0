// kernels/sampling.h, step by step, with a full sort. Philox runs on int64 tensors, so that nothing leaves the device.
#include "kernels/eager/eager.h"
#include "kernels/philox.h"
#include "kernels/sampling.h"

namespace automodeld::eager {
namespace {

constexpr int64_t kLow32 = 0xFFFFFFFF;

at::Tensor High32(const at::Tensor& x) { return x.__rshift__(32).bitwise_and(kLow32); }

// UniformDouble(Philox(seed, position)) for each row: a 64-bit product wraps in int64 as in uint64.
at::Tensor Uniform(const at::Tensor& seeds, const at::Tensor& positions) {
  at::Tensor x = positions.bitwise_and(kLow32), y = High32(positions), z = at::zeros_like(x), w = z;
  at::Tensor key_x = seeds.bitwise_and(kLow32), key_y = High32(seeds);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const at::Tensor product_x = x * int64_t{kPhiloxMultiplierX};
    const at::Tensor product_z = z * int64_t{kPhiloxMultiplierZ};
    x = High32(product_z).bitwise_xor(y).bitwise_xor(key_x);
    y = product_z.bitwise_and(kLow32);
    z = High32(product_x).bitwise_xor(w).bitwise_xor(key_y);
    w = product_x.bitwise_and(kLow32);
    key_x = (key_x + int64_t{kPhiloxWeylX}).bitwise_and(kLow32);
    key_y = (key_y + int64_t{kPhiloxWeylY}).bitwise_and(kLow32);
  }
  return (y * (int64_t{1} << 21) + x.__rshift__(11)).to(at::kDouble) * 0x1p-53;
}

at::Tensor Column(const at::Tensor& x) { return x.to(at::kDouble).unsqueeze(-1); }

}  // namespace

at::Tensor Sample(const at::Tensor& logits, const at::Tensor& temperature, const at::Tensor& top_k,
                  const at::Tensor& top_p, const at::Tensor& min_p, const at::Tensor& seeds,
                  const at::Tensor& positions) {
  const at::Tensor wide = logits.to(at::kDouble);
  const at::Tensor best = wide.argmax(-1);
  if (logits.size(0) == 0) return best;
  const auto [sorted, ids] = wide.sort(/*stable=*/true, -1, /*descending=*/true);  // a NaN first or last, by its sign
  const at::Tensor scaled = (sorted - wide.gather(-1, best.unsqueeze(-1))) / Column(temperature);
  const at::Tensor weights =
      (scaled.exp() * kWeightOne).nan_to_num(0.0).round().to(at::kLong);  // [rows, vocab], sorted

  const at::Tensor rank = at::arange(logits.size(-1), logits.options().dtype(at::kLong));
  const at::Tensor k = top_k.unsqueeze(-1);
  const at::Tensor in_k = rank.lt(k).logical_or(k.le(0));
  const at::Tensor sum_k = (weights * in_k).sum(-1, /*keepdim=*/true);
  const at::Tensor reach = (Column(top_p) * sum_k.to(at::kDouble)).ceil().to(at::kLong);
  const at::Tensor before = weights.cumsum(-1) - weights;
  const at::Tensor in_p = before.lt(reach).logical_or(rank.eq(0)).logical_or(Column(top_p).ge(1.0));
  const at::Tensor in_min_p = weights.ge((Column(min_p) * kWeightOne).ceil().to(at::kLong));
  const at::Tensor kept = weights * in_k.logical_and(in_p).logical_and(in_min_p);

  const at::Tensor running = at::zeros_like(kept).scatter(-1, ids, kept).cumsum(-1);  // by token id
  const at::Tensor sum = running.narrow(-1, running.size(-1) - 1, 1);
  const at::Tensor draw = (Column(Uniform(seeds, positions).to(at::kDouble)) * sum.to(at::kDouble)).floor();
  const at::Tensor target = at::minimum(draw.to(at::kLong), sum - 1);
  const at::Tensor drawn = running.le(target).sum(-1);
  return at::where(temperature.le(0).logical_or(sum.squeeze(-1).le(0)), best, drawn);
}

}  // namespace automodeld::eager
