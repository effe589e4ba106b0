// What the fused versions of the op embed_tokens share: their arguments, and the checks of them.
#ifndef KERNELS_EMBED_TOKENS_H_
#define KERNELS_EMBED_TOKENS_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>

#include "kernels/tensors.h"

namespace automodeld {

// T: of the weights.
template <typename T>
struct EmbedArgs {
  const int64_t *token_ids, *last_tokens;
  const T* weight;  // rows of `width`
  T* rows;
  int64_t width;
  float scale;  // rounded to T; 1: rows are copied
};

// Calls run with EmbedArgs and the result, [tokens, n].
template <typename T, typename Run>
at::Tensor EmbedWith(const at::Tensor& token_ids, const std::optional<at::Tensor>& last_tokens,
                     const at::Tensor& weight, double scale, const Run& run) {
  const int64_t tokens = token_ids.size(0), width = weight.size(1);
  CheckType("embed_tokens: token_ids", token_ids, at::kLong);
  CheckShape("embed_tokens: token_ids", token_ids, {tokens});
  const at::Tensor ids = token_ids.contiguous(), table = weight.contiguous();
  at::Tensor slots;
  if (IsDefined(last_tokens)) {
    CheckType("embed_tokens: last_tokens", *last_tokens, at::kLong);
    slots = last_tokens->contiguous();
  }
  at::Tensor rows = at::empty({tokens, width}, weight.options());
  if (rows.numel() == 0) return rows;
  run(EmbedArgs<T>{.token_ids = ids.const_data_ptr<int64_t>(),
                   .last_tokens = slots.defined() ? slots.const_data_ptr<int64_t>() : nullptr,
                   .weight = table.const_data_ptr<T>(),
                   .rows = rows.mutable_data_ptr<T>(),
                   .width = width,
                   .scale = static_cast<float>(static_cast<T>(static_cast<float>(scale)))},
      rows);
  return rows;
}

}  // namespace automodeld

#endif  // KERNELS_EMBED_TOKENS_H_
