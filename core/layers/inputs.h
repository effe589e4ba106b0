// One step's inputs as tensors, and the activation that flows through the layers.
#ifndef CORE_LAYERS_INPUTS_H_
#define CORE_LAYERS_INPUTS_H_

#include <ATen/ATen.h>

#include "kernels/attention.h"

namespace automodeld {

// Rows are [decode | paged prefill | ragged], as in engine/batch.h.
struct Inputs {
  at::Tensor token_ids;                   // [tokens] int64; negative: last_tokens[-1 - id]
  at::Tensor last_tokens;                 // [slots] int64: what was drawn last; undefined: no id is negative
  at::Tensor positions;                   // [tokens] int64, 0-based
  at::Tensor kv_slots;                    // [tokens] int64: page * page_size + offset of each row; undefined without KV
  KvCache* kv = nullptr;                  // null for encoders
  AttentionBackend* attention = nullptr;  // planned for this step
};

// The residual stream: `hidden` is the newest branch's output, not yet added to `residual`.
struct Activation {
  at::Tensor hidden;    // [tokens, hidden_size]
  at::Tensor residual;  // [tokens, hidden_size]; undefined before the first norm
};

}  // namespace automodeld

#endif  // CORE_LAYERS_INPUTS_H_
