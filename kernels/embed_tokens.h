// What the fused versions of the op embed_tokens share: their arguments, and the checks of them.
#ifndef KERNELS_EMBED_TOKENS_H_
#define KERNELS_EMBED_TOKENS_H_

#include <ATen/ATen.h>
#include <c10/macros/Macros.h>

#include <cstdint>
#include <optional>

#include "kernels/dispatch.h"
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

  // Of the weights: that of a token.
  C10_HOST_DEVICE const T* RowOf(int64_t token) const {
    const int64_t id = token_ids[token];
    return weight + (id < 0 ? last_tokens[-1 - id] : id) * width;
  }
};

// Calls run(EmbedArgs, number of tokens), which fills the rows: what is given, [tokens, n].
template <typename Run>
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
  DispatchFloats("embed_tokens", weight, [&](auto zero) {
    using T = decltype(zero);
    run(EmbedArgs<T>{.token_ids = ids.const_data_ptr<int64_t>(),
                     .last_tokens = slots.defined() ? slots.const_data_ptr<int64_t>() : nullptr,
                     .weight = table.const_data_ptr<T>(),
                     .rows = rows.mutable_data_ptr<T>(),
                     .width = width,
                     .scale = static_cast<float>(static_cast<T>(static_cast<float>(scale)))},
        tokens);
  });
  return rows;
}

}  // namespace automodeld

#endif  // KERNELS_EMBED_TOKENS_H_
