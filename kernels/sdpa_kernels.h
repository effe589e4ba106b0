// libtorch's implementations of scaled dot product attention, each called directly, behind one signature.
#ifndef KERNELS_SDPA_KERNELS_H_
#define KERNELS_SDPA_KERNELS_H_

#include <ATen/ATen.h>
#include <absl/status/statusor.h>

#include <span>
#include <string>

#include "kernels/attention.h"

namespace automodeld {

// One batch of sequences with the same number of rows and (padded) keys.
struct SdpaCall {
  at::Tensor q;         // [batch, heads, rows, head_dim]
  at::Tensor k, v;      // [batch, kv_heads, keys, head_dim]; heads is a multiple of kv_heads
  at::Tensor mask;      // additive, [batch or 1, 1, rows, keys], of q's dtype; undefined: every row sees every key,
  bool causal = false;  // or with `causal` (then rows == keys and no mask) those up to its own position
  double scale = 1.0;
};

struct SdpaKernel {
  std::string name;                                        // "sdpa:MATH"
  at::Tensor (*function)(const SdpaCall& call) = nullptr;  // [batch, heads, rows, head_dim]
};

// The first of `order` that runs on needs.device with needs.head_dim and dtype and gives there what MATH gives: each is
// tried on a small call. An empty order takes libtorch's own choice. UNIMPLEMENTED lists why each was refused.
absl::StatusOr<SdpaKernel> ChooseSdpaKernel(const AttentionNeeds& needs, std::span<const SdpaBackend> order);

}  // namespace automodeld

#endif  // KERNELS_SDPA_KERNELS_H_
