// Copies rows of the weights, scaled where a scale is given.
#include "kernels/embed_tokens.h"

#include <cstring>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"

namespace automodeld {
namespace {

template <typename T>
struct EmbedRows {
  template <int W>
  AUTOMODELD_INLINE static void Run(const EmbedArgs<T>* args, int64_t begin, int64_t end) {
    const EmbedArgs<T> a = *args;
    for (int64_t row = begin; row < end; ++row) {
      const T* from = a.RowOf(row);
      T* to = a.rows + row * a.width;
      if (a.scale == 1.0F) {
        std::memcpy(to, from, static_cast<size_t>(a.width) * sizeof(T));
        continue;
      }
      for (int64_t i = 0; i < a.width; i += W) {
        StorePart<W>(to + i, LoadPart<W>(from + i, a.width - i) * a.scale, a.width - i);
      }
    }
  }
};

at::Tensor EmbedTokens(const at::Tensor& token_ids, const std::optional<at::Tensor>& last_tokens,
                       const at::Tensor& weight, double scale) {
  return EmbedWith(token_ids, last_tokens, weight, scale, []<typename T>(const EmbedArgs<T>& args, int64_t tokens) {
    ForRows(tokens, 2 * args.width, [&](int64_t begin, int64_t end) { RunSimd<EmbedRows<T>>(&args, begin, end); });
  });
}

const bool registered = RegisterKernel(&Ops::embed_tokens, at::kCPU, FusedDtypes(), EmbedTokens, EmbedTokensSamples);

}  // namespace
}  // namespace automodeld
