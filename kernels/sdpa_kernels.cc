#include "kernels/sdpa_kernels.h"

#include <absl/strings/str_join.h>
#include <fmt/format.h>

#include <exception>
#include <utility>

#include "kernels/tensors.h"

namespace automodeld {
namespace {

std::optional<at::Tensor> Optional(const at::Tensor& x) {
  return x.defined() ? std::optional<at::Tensor>(x) : std::nullopt;
}

at::Tensor RepeatHeads(const at::Tensor& kv, const at::Tensor& q) {
  return kv.size(1) == q.size(1) ? kv : kv.repeat_interleave(q.size(1) / kv.size(1), 1);
}

at::Tensor Cudnn(const SdpaCall& c) {
  return std::get<0>(at::_scaled_dot_product_cudnn_attention(c.q, RepeatHeads(c.k, c.q), RepeatHeads(c.v, c.q),
                                                             Optional(c.mask), false, 0.0, c.causal, false, c.scale));
}

at::Tensor FlashCuda(const SdpaCall& c) {
  TORCH_CHECK(!c.mask.defined(), "takes no mask");
  return std::get<0>(at::_scaled_dot_product_flash_attention(c.q, RepeatHeads(c.k, c.q), RepeatHeads(c.v, c.q), 0.0,
                                                             c.causal, false, c.scale));
}

// libtorch's CPU kernel wants as many key heads as query heads. A group of heads that share keys becomes the rows of
// one head where there is one row (decode), else heads with stride 0 in a batch of one key head each.
at::Tensor FlashCpu(const SdpaCall& c) {
  const auto run = [&c](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask) {
    return std::get<0>(
        at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, c.causal, Optional(mask), c.scale));
  };
  const int64_t batch = c.q.size(0), heads = c.q.size(1), rows = c.q.size(2), dim = c.q.size(3);
  const int64_t kv_heads = c.k.size(1), group = heads / kv_heads, keys = c.k.size(2);
  if (group == 1) return run(c.q, c.k, c.v, c.mask);
  if (rows == 1) {
    const at::Tensor mask = c.mask.defined() ? c.mask.expand({-1, 1, group, -1}) : c.mask;
    return run(c.q.reshape({batch, kv_heads, group, dim}), c.k, c.v, mask).reshape({batch, heads, 1, dim});
  }
  if (batch == 1) {
    const auto spread = [&](const at::Tensor& kv) { return kv.transpose(0, 1).expand({kv_heads, group, keys, dim}); };
    return run(c.q.view({kv_heads, group, rows, dim}), spread(c.k), spread(c.v), c.mask).reshape({1, heads, rows, dim});
  }
  return run(c.q, RepeatHeads(c.k, c.q), RepeatHeads(c.v, c.q), c.mask);
}

at::Tensor Flash(const SdpaCall& c) { return c.q.is_cpu() ? FlashCpu(c) : FlashCuda(c); }

at::Tensor Efficient(const SdpaCall& c) {
  const at::Tensor& q = c.q;
  const at::Tensor mask = c.mask.defined() ? c.mask.expand({q.size(0), q.size(1), -1, -1}) : c.mask;
  return std::get<0>(at::_scaled_dot_product_efficient_attention(q, RepeatHeads(c.k, q), RepeatHeads(c.v, q),
                                                                 Optional(mask), false, 0.0, c.causal, c.scale));
}

at::Tensor Math(const SdpaCall& c) {
  return std::get<0>(at::_scaled_dot_product_attention_math(c.q, c.k, c.v, Optional(c.mask), 0.0, c.causal, {}, c.scale,
                                                            /*enable_gqa=*/true));
}

at::Tensor LibtorchsChoice(const SdpaCall& c) {
  return at::scaled_dot_product_attention(c.q, c.k, c.v, Optional(c.mask), 0.0, c.causal, c.scale,
                                          /*enable_gqa=*/true);
}

SdpaKernel Kernel(SdpaBackend backend) {
  switch (backend) {
    case SdpaBackend::kCudnn:
      return {"sdpa:CUDNN_ATTENTION", Cudnn};
    case SdpaBackend::kFlash:
      return {"sdpa:FLASH_ATTENTION", Flash};
    case SdpaBackend::kEfficient:
      return {"sdpa:EFFICIENT_ATTENTION", Efficient};
    case SdpaBackend::kMath:
      break;
  }
  return {"sdpa:MATH", Math};
}

// A decode batch with a mask, and a causal or full prompt.
std::vector<SdpaCall> ProbeCalls(const AttentionNeeds& needs) {
  const auto options = at::TensorOptions().dtype(needs.dtype).device(needs.device);
  const auto ramp = [&](int64_t batch, int64_t heads, int64_t rows) {
    return at::linspace(-1, 1, batch * heads * rows * needs.head_dim, options.dtype(at::kFloat))
        .view({batch, rows, heads, needs.head_dim})
        .transpose(1, 2)
        .to(needs.dtype);
  };
  const int64_t h = needs.num_heads, g = needs.num_kv_heads;
  const at::Tensor mask = at::zeros({2, 1, 1, 32}, options).narrow(-1, 0, 20);
  mask.select(0, 1).narrow(-1, 5, 15).fill_(-std::numeric_limits<double>::infinity());
  return {{ramp(2, h, 1), ramp(2, g, 20), ramp(2, g, 20), mask, false, 0.1},
          {ramp(1, h, 20), ramp(1, g, 20), ramp(1, g, 20), {}, needs.causal, 0.1}};
}

// Empty if the kernel can do it.
std::string WhyNot(const SdpaKernel& kernel, const AttentionNeeds& needs) {
  if ((kernel.function == Cudnn || kernel.function == Efficient) && !needs.device.is_cuda()) return "runs on CUDA only";
  try {
    for (const SdpaCall& call : ProbeCalls(needs)) {
      // The outputs are means of values in [-1, 1]; 16-bit types keep 8 bits or more of them.
      if (!at::allclose(kernel.function(call), Math(call), 0.0, 0.02)) return "gives wrong values on this device";
    }
  } catch (const std::exception& error) {
    return FirstLine(error.what());
  }
  return "";
}

}  // namespace

absl::StatusOr<SdpaKernel> ChooseSdpaKernel(const AttentionNeeds& needs, std::span<const SdpaBackend> order) {
  if (order.empty()) return SdpaKernel{"sdpa", LibtorchsChoice};
  std::vector<std::string> refused;
  for (const SdpaBackend backend : order) {
    const SdpaKernel kernel = Kernel(backend);
    const std::string reason = WhyNot(kernel, needs);
    if (reason.empty()) return kernel;
    refused.push_back(kernel.name + ": " + reason);
  }
  return absl::UnimplementedError(fmt::format("sdpa: no method does head_dim {} in {} on {}: {}", needs.head_dim,
                                              c10::toString(needs.dtype), needs.device.str(),
                                              absl::StrJoin(refused, "; ")));
}

}  // namespace automodeld
