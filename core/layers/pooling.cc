#include "core/layers/pooling.h"

#include <cmath>

namespace automodeld {

namespace {

void AddSum(const at::Tensor& sum, double weight, PoolState& state) {
  state.value = state.value.defined() ? state.value + sum : sum;
  state.weight += weight;
}

}  // namespace

void Pool(Pooling pooling, const at::Tensor& rows, int position, PoolState& state) {
  const at::Tensor x = rows.to(at::kFloat);
  const auto n = static_cast<double>(x.size(0));
  switch (pooling) {
    case Pooling::kMean:
    case Pooling::kMeanSqrtLen:
      AddSum(x.sum(0), n, state);
      break;
    case Pooling::kWeightedMean: {  // SGPT: token i weighs i + 1
      const at::Tensor weights = at::arange(position + 1, position + 1 + x.size(0), x.options());
      AddSum(at::mv(x.t(), weights), n * position + n * (n + 1) / 2, state);
      break;
    }
    case Pooling::kMax: {
      const at::Tensor most = x.amax(0);
      state.value = state.value.defined() ? at::maximum(state.value, most) : most;
      break;
    }
    case Pooling::kCls:
      if (position == 0) state.value = x[0];
      break;
    case Pooling::kLastToken:
      state.value = x[-1];
      break;
  }
}

at::Tensor FinishPool(const EmbedParams& params, const PoolState& state) {
  at::Tensor value = state.value;
  if (params.pooling == Pooling::kMeanSqrtLen) value = value / std::sqrt(state.weight);
  if (params.pooling == Pooling::kMean || params.pooling == Pooling::kWeightedMean) value = value / state.weight;
  if (params.dimensions > 0) value = value.narrow(0, 0, params.dimensions);
  if (params.normalize) value = value / value.norm().clamp_min(1e-12);
  return value;
}

}  // namespace automodeld
