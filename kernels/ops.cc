#include "kernels/ops.h"

#include <algorithm>

#include "kernels/eager/eager.h"
#include "kernels/registry.h"

namespace automodeld {
namespace {

constexpr char kEmbedTokens[] =
    "embed_tokens(Tensor token_ids, Tensor? last_tokens, Tensor weight, float scale) -> Tensor";
constexpr char kRmsNorm[] =
    "rms_norm(Tensor x, Tensor? residual, Tensor weight, float eps, bool quantize) -> (Tensor, Tensor, Tensor)";
constexpr char kLayerNorm[] =
    "layer_norm(Tensor x, Tensor? residual, Tensor weight, Tensor bias, float eps, bool quantize) -> "
    "(Tensor, Tensor, Tensor)";
constexpr char kQkvRopeWriteKv[] =
    "qkv_rope_write_kv(Tensor qkv, int heads, int kv_heads, Tensor? q_norm, Tensor? k_norm, float eps, "
    "Tensor? cos_sin, Tensor positions, Tensor(a!)? k_cache, Tensor(b!)? v_cache, Tensor? kv_slots, "
    "float k_scale, float v_scale) -> (Tensor, Tensor, Tensor)";
constexpr char kActMul[] = "act_mul(Tensor gate_up, str activation, bool quantize) -> (Tensor, Tensor)";
constexpr char kAdjustLogits[] =
    "adjust_logits(Tensor logits, Tensor counts, Tensor count_rows, Tensor penalties, Tensor bias_offsets, "
    "Tensor bias_ids, Tensor bias_values) -> Tensor";
constexpr char kCountTokens[] = "count_tokens(Tensor(a!) counts, Tensor count_rows, Tensor tokens) -> Tensor(a!)";
constexpr char kSample[] =
    "sample(Tensor logits, Tensor temperature, Tensor top_k, Tensor top_p, Tensor min_p, Tensor seeds, "
    "Tensor positions) -> Tensor";
constexpr char kPoolRows[] = "pool_rows(Tensor hidden, Tensor items, Tensor(a!)? partial) -> Tensor";

bool Fits(const Kernel& kernel, at::Device device, at::ScalarType dtype) {
  return kernel.device == device.type() && std::ranges::find(kernel.dtypes, dtype) != kernel.dtypes.end();
}

std::string WhyMissing(const std::string& op, at::Device device, at::ScalarType dtype) {
  const bool other_dtype = std::ranges::any_of(
      RegisteredKernels(), [&](const Kernel& k) { return k.op == op && k.device == device.type(); });
  const std::string what = "no fused version for " + VersionName(device.type());
  return other_dtype ? what + " and " + c10::toString(dtype) : what;
}

}  // namespace

std::string VersionName(at::DeviceType device) { return c10::DeviceTypeName(device, /*lower_case=*/true); }

std::vector<Kernel>& RegisteredKernels() {
  static std::vector<Kernel> kernels;
  return kernels;
}

Ops EagerOps() {
  return {.embed_tokens = {"embed_tokens", kEmbedTokens, "eager", eager::EmbedTokens},
          .rms_norm = {"rms_norm", kRmsNorm, "eager", eager::RmsNorm},
          .layer_norm = {"layer_norm", kLayerNorm, "eager", eager::LayerNorm},
          .qkv_rope_write_kv = {"qkv_rope_write_kv", kQkvRopeWriteKv, "eager", eager::QkvRopeWriteKv},
          .act_mul = {"act_mul", kActMul, "eager", eager::ActMul},
          .adjust_logits = {"adjust_logits", kAdjustLogits, "eager", eager::AdjustLogits},
          .count_tokens = {"count_tokens", kCountTokens, "eager", eager::CountTokens},
          .sample = {"sample", kSample, "eager", eager::Sample},
          .pool_rows = {"pool_rows", kPoolRows, "eager", eager::PoolRows}};
}

std::vector<std::string> OpNames() {
  std::vector<std::string> names;
  ForEachOp([&](const auto& op) { names.push_back(op.name); }, EagerOps());
  return names;
}

FusedOps FindFusedOps(const Ops& eager, std::span<const std::string> ops, at::Device device, at::ScalarType dtype) {
  FusedOps found{.ops = eager, .patched = {}, .unpatched = {}};
  for (const std::string& op : ops) {
    const auto kernel = std::ranges::find_if(RegisteredKernels(),
                                             [&](const Kernel& k) { return k.op == op && Fits(k, device, dtype); });
    const bool missing = kernel == RegisteredKernels().end();
    const std::string reason = missing ? WhyMissing(op, device, dtype) : kernel->why_not(device);
    if (!reason.empty()) {
      found.unpatched.emplace_back(op, reason);
      continue;
    }
    kernel->install(found.ops);
    found.patched.emplace_back(op, VersionName(device.type()));
  }
  return found;
}

}  // namespace automodeld
