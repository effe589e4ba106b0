// As transformers' embed_tokens, and its scaled kind.
#include "kernels/eager/eager.h"
#include "kernels/tensors.h"

namespace automodeld::eager {

at::Tensor EmbedTokens(const at::Tensor& token_ids, const std::optional<at::Tensor>& last_tokens,
                       const at::Tensor& weight, double scale) {
  at::Tensor ids = token_ids;
  if (IsDefined(last_tokens)) {
    const at::Tensor drawn = last_tokens->index_select(0, (-1 - ids).clamp_min(0));
    ids = at::where(ids < 0, drawn, ids);
  }
  const at::Tensor rows = at::embedding(weight, ids);
  return scale == 1.0 ? rows : rows * at::scalar_tensor(scale, weight.options());
}

}  // namespace automodeld::eager
