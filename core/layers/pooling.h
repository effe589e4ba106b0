// Token vectors to one vector, as sentence-transformers' Pooling, Normalize and truncate_dim do.
//
// A prompt may come in chunks: Pool takes the rows of each and keeps float32 sums in between.
//   PoolState state;
//   Pool(params.pooling, rows, position, state);   // every chunk, in order
//   at::Tensor vector = FinishPool(params, state);
#ifndef CORE_LAYERS_POOLING_H_
#define CORE_LAYERS_POOLING_H_

#include <ATen/ATen.h>

#include "core/engine/request.h"

namespace automodeld {

struct PoolState {
  at::Tensor value;   // [hidden] float32: the sum, maximum or row so far
  double weight = 0;  // what a sum is divided by
};

// rows: [n, hidden] of one sequence, n >= 1, the first at `position`.
void Pool(Pooling pooling, const at::Tensor& rows, int position, PoolState& state);

// [dimensions or hidden] float32: cut to `dimensions`, then normalised.
at::Tensor FinishPool(const EmbedParams& params, const PoolState& state);

}  // namespace automodeld

#endif  // CORE_LAYERS_POOLING_H_
