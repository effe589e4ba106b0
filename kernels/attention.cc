#include "kernels/attention.h"

#include <fmt/format.h>

#include <limits>

#include "kernels/attention_backends.h"

namespace automodeld {

absl::StatusOr<std::unique_ptr<AttentionBackend>> MakeAttention(const std::string& name, const AttentionNeeds& needs,
                                                                std::span<const SdpaBackend> sdpa_order) {
  if (name == "eager") return MakeEagerAttention(needs);
  if (name == "sdpa") return MakeSdpaAttention(needs, sdpa_order);
  if (name != "flash_attention_2") {
    return absl::UnimplementedError(fmt::format("attention '{}' is none of flash_attention_2, sdpa, eager", name));
  }
  if (needs.device.is_cpu()) return MakeCpuFlashAttention(needs);
#if AUTOMODELD_CUDA
  return MakeCudaFlashAttention(needs);
#else
  return absl::UnimplementedError("flash_attention_2 has no CUDA version in this build");
#endif
}

absl::Status RefuseCapAndSinks(const std::string& name, const AttentionNeeds& needs) {
  if (!needs.soft_cap && !needs.sinks) return absl::OkStatus();
  return absl::UnimplementedError(fmt::format("{} has no {}", name, needs.soft_cap ? "soft cap" : "sinks"));
}

AttentionFactors FactorsOf(const AttentionLayer& layer, const KvCache* kv) {
  if (kv == nullptr) return {.scores = layer.scale, .results = 1.0};
  return {.scores = layer.scale * ReadScale(kv->dtype(), layer.k_scale),
          .results = ReadScale(kv->dtype(), layer.v_scale)};
}

at::Tensor AttentionMask(const at::Tensor& contexts, int64_t rows, int64_t keys, const AttentionLayer& layer,
                         at::TensorOptions options) {
  const at::TensorOptions index = contexts.options();
  const at::Tensor length = contexts.view({-1, 1, 1, 1});
  const at::Tensor position = length - rows + at::arange(rows, index).view({1, 1, -1, 1});
  const at::Tensor key = at::arange(keys, index).view({1, 1, 1, -1});
  at::Tensor hidden = key.ge(length);
  if (layer.causal) hidden = hidden.logical_or(key.gt(position));
  if (layer.window > 0) hidden = hidden.logical_or(key.le(position - layer.window));
  const at::Tensor mask = at::zeros({contexts.size(0), 1, rows, (keys + 15) / 16 * 16}, options).narrow(-1, 0, keys);
  return mask.masked_fill_(hidden, -std::numeric_limits<double>::infinity());
}

}  // namespace automodeld
