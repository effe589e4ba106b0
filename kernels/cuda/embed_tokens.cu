// Copies rows of the weights, scaled where a scale is given: a block takes a row, a thread every blockDim-th group of W
// columns. Reads and writes each row once.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rounding.h"
#include "kernels/embed_tokens.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"

namespace automodeld {
namespace {

constexpr int64_t kMostThreads = 512;

// The width is a multiple of W, and every row begins on a border of W elements.
template <typename T, int W>
__global__ void embed_tokens_kernel(EmbedArgs<T> a) {
  AllowNext();
  AwaitPrevious();
  const T* from = a.RowOf(blockIdx.x);
  T* to = a.rows + static_cast<int64_t>(blockIdx.x) * a.width;
  for (int64_t i = threadIdx.x * W; i < a.width; i += static_cast<int64_t>(blockDim.x) * W) {
    Pack<T, W> x = Load<T, W>(from + i);
    if (a.scale != 1.0F) {
      for (int j = 0; j < W; ++j) x[j] = RoundTo<T>(static_cast<float>(x[j]) * a.scale);
    }
    Store(to + i, x);
  }
}

template <typename T>
void LaunchEmbed(const EmbedArgs<T>& a, int64_t tokens) {
  constexpr int kWide = 16 / sizeof(T);
  const bool wide = Aligned16(a.weight, a.rows) && a.width % kWide == 0;
  const int64_t groups = wide ? a.width / kWide : a.width;
  const auto threads = static_cast<unsigned>(std::min((groups + 31) / 32 * 32, kMostThreads));
  Launch(wide ? embed_tokens_kernel<T, kWide> : embed_tokens_kernel<T, 1>, static_cast<unsigned>(tokens), threads, 0,
         a);
}

at::Tensor EmbedTokens(const at::Tensor& token_ids, const std::optional<at::Tensor>& last_tokens,
                       const at::Tensor& weight, double scale) {
  const c10::DeviceGuard guard(weight.device());
  return EmbedWith(token_ids, last_tokens, weight, scale,
                   [](const auto& args, int64_t tokens) { LaunchEmbed(args, tokens); });
}

const bool registered = RegisterKernel(&Ops::embed_tokens, at::kCUDA, FusedDtypes(), EmbedTokens, EmbedTokensSamples);

}  // namespace
}  // namespace automodeld
