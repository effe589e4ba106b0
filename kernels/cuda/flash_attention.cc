// flash_attention_2 on CUDA. A step is at most three launches and a merge: decode rows, other rows of pages, ragged
// rows.
#include "kernels/cuda/flash_attention.h"

#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>
#include <fmt/format.h>

#include <algorithm>
#include <numbers>

#include "kernels/attention_backends.h"
#include "kernels/cuda/flash_attention_plan.h"
#include "kernels/fp8.h"

namespace automodeld {
namespace {

struct Instance {
  int64_t dim;
  void (*launch)(FlashKind kind, bool bfloat16, bool convert, const FlashArgs& args);
};
constexpr Instance kInstances[] = {{32, LaunchFlash<32>}, {64, LaunchFlash<64>},   {80, LaunchFlash<80>},
                                   {96, LaunchFlash<96>}, {128, LaunchFlash<128>}, {256, LaunchFlash<256>}};
constexpr int64_t kMaxDim = 256;

const Instance& InstanceFor(int64_t head_dim) {
  return *std::ranges::find_if(kInstances, [&](const Instance& i) { return i.dim >= head_dim; });
}

FlashElement ElementOf(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return FlashElement::kFloat;
    case at::kHalf:
      return FlashElement::kHalf;
    case at::kBFloat16:
      return FlashElement::kBFloat16;
    case at::kFloat8_e4m3fn:
      return FlashElement::kE4m3;
    default:
      TORCH_CHECK(false, "attention: KV cache is ", x.scalar_type(),
                  ", expected Float, BFloat16, Half or Float8_e4m3fn");
  }
}

bool OnBordersOf16(const at::Tensor& x) {  // [..., heads, head_dim]: every head of every row
  bool borders = reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  for (int64_t i = 0; i + 1 < x.dim(); ++i) borders = borders && x.stride(i) * x.element_size() % 16 == 0;
  return borders;
}

// Whether kernels can read rows [tokens, heads, head_dim] where they are.
bool IsReadable(const at::Tensor& x) { return x.stride(2) == 1 && x.stride(1) == x.size(2) && OnBordersOf16(x); }
at::Tensor Readable(const at::Tensor& x) { return IsReadable(x) ? x : x.clone(at::MemoryFormat::Contiguous); }

// Of a cache [pages, page_size, heads, head_dim] or of rows [tokens, heads, head_dim].
FlashSource SourceOf(const at::Tensor& keys, const at::Tensor& values) {
  TORCH_CHECK(keys.strides() == values.strides(), "attention: keys have strides ", keys.strides(), ", values ",
              values.strides());
  return {.keys = keys.const_data_ptr(),
          .values = values.const_data_ptr(),
          .page_stride = keys.dim() == 4 ? keys.stride(0) : 0,
          .token_stride = keys.stride(-3)};
}

class CudaFlashAttention final : public AttentionBackend {
 public:
  CudaFlashAttention(const FlashDevice& shape, at::Device device) : group_(shape.group), plan_(shape, device) {}

  const std::string& name() const override { return name_; }
  bool can_be_captured() const override { return true; }
  void Reserve(const AttentionCapacity& capacity) override { plan_.Reserve(capacity); }

  void Plan(const AttentionStep& step) override { plan_.Send(step); }

  LinearInput Run(const AttentionLayer& layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const KvCache* kv) override {
    TORCH_CHECK(layer.num_heads == layer.num_kv_heads * group_, "attention: ", layer.num_heads, " heads for ",
                layer.num_kv_heads, " key heads, planned for ", group_, " each");
    const c10::cuda::CUDAGuard guard(q.device());
    const at::Tensor queries = Readable(q);
    FlashArgs args = ArgsOf(layer, queries);
    const bool decode_only = plan_.prefill().num_items + plan_.ragged().num_items == 0;
    if (layer.quantize && decode_only && plan_.decode_splits() > 1) return RunQuantized(layer, queries, *kv, args);
    const at::Tensor out = at::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
    args.out = out.mutable_data_ptr();
    if (plan_.num_decode() > 0) RunDecode(layer, queries, *kv, args, /*scale=*/nullptr);
    if (plan_.prefill().num_items > 0) {
      RunTiles(plan_.prefill(), layer, queries, kv->keys(layer.index), kv->values(layer.index), kv, args);
    }
    if (plan_.ragged().num_items > 0) {
      const bool as_they_are = k.strides() == v.strides() && IsReadable(k) && IsReadable(v);
      const at::Tensor keys = as_they_are ? k : k.clone(at::MemoryFormat::Contiguous);
      const at::Tensor values = as_they_are ? v : v.clone(at::MemoryFormat::Contiguous);
      RunTiles(plan_.ragged(), layer, queries, keys, values, nullptr, args);
    }
    return QuantizedIf(layer.quantize, out);
  }

 private:
  FlashArgs ArgsOf(const AttentionLayer& layer, const at::Tensor& q) const {
    FlashArgs args;
    args.q = q.const_data_ptr();
    args.q_stride = q.stride(0);
    args.sequences = plan_.sequences();
    args.pages = plan_.pages();
    if (layer.sinks.defined()) args.sinks = layer.sinks.const_data_ptr<float>();
    args.heads = static_cast<int32_t>(layer.num_heads);
    args.kv_heads = static_cast<int32_t>(layer.num_kv_heads);
    args.group = static_cast<int32_t>(group_);
    args.head_dim = static_cast<int32_t>(layer.head_dim);
    args.page_blocks = static_cast<int32_t>(plan_.page_size() / 16);
    args.window = static_cast<int32_t>(layer.window);
    args.causal = layer.causal;
    return args;
  }

  // kv: null for rows of k and v.
  static void Launch(FlashKind kind, const AttentionLayer& layer, const at::Tensor& q, const at::Tensor& keys,
                     const at::Tensor& values, const KvCache* kv, FlashArgs args) {
    const AttentionFactors factors = FactorsOf(layer, kv);
    const double cap = layer.soft_cap;
    args.source = SourceOf(keys, values);
    args.score_factor = static_cast<float>((cap > 0.0 ? cap : factors.scores) * std::numbers::log2e);
    args.cap_factor = cap > 0.0 ? static_cast<float>(factors.scores / cap) : 0.0f;
    args.result_factor = static_cast<float>(factors.results);
    args.element = ElementOf(keys);
    const bool same = keys.scalar_type() == q.scalar_type(), borders = OnBordersOf16(keys) && OnBordersOf16(values);
    args.copies_16 = borders && (same || args.element == FlashElement::kE4m3);
    const bool bfloat16 = q.scalar_type() == at::kBFloat16;
    InstanceFor(layer.head_dim).launch(kind, bfloat16, /*convert=*/!same || !borders, args);
  }

  void RunTiles(const FlashTiles& tiles, const AttentionLayer& layer, const at::Tensor& q, const at::Tensor& keys,
                const at::Tensor& values, const KvCache* kv, FlashArgs args) const {
    args.items = plan_.items(tiles);
    args.num_items = static_cast<int32_t>(tiles.num_items);
    Launch(tiles.kind, layer, q, keys, values, kv, args);
  }

  // scale: null, or where the merged rows are quantised.
  void RunDecode(const AttentionLayer& layer, const at::Tensor& q, const KvCache& kv, FlashArgs args,
                 float* scale) const {
    const int64_t splits = plan_.decode_splits(), rows = plan_.num_decode() * splits * layer.num_heads;
    const at::TensorOptions floats = q.options().dtype(at::kFloat);
    at::Tensor partial, sums;
    if (splits > 1) {
      partial = at::empty({rows, layer.head_dim}, floats);
      sums = at::empty({rows, 2}, floats);
      args.partial = partial.mutable_data_ptr<float>();
      args.partial_sum = sums.mutable_data_ptr<float>();
    }
    const int64_t tiles = (group_ + 15) / 16;
    args.splits = static_cast<int32_t>(splits);
    args.fresh_keys = static_cast<int32_t>(plan_.fresh_keys());
    args.num_items = static_cast<int32_t>(plan_.num_decode() * tiles);
    Launch(FlashKind::kDecode, layer, q, kv.keys(layer.index), kv.values(layer.index), &kv, args);
    if (splits == 1) return;
    const FlashMergeArgs merge{.partial = args.partial,
                               .partial_sum = args.partial_sum,
                               .sequences = args.sequences,
                               .sinks = args.sinks,
                               .out = args.out,
                               .scale = scale,
                               .splits = args.splits,
                               .heads = args.heads,
                               .head_dim = args.head_dim,
                               .window = args.window,
                               .result_factor = static_cast<float>(FactorsOf(layer, &kv).results)};
    LaunchFlashMerge(q.scalar_type() == at::kBFloat16, merge, plan_.num_decode());
  }

  LinearInput RunQuantized(const AttentionLayer& layer, const at::Tensor& q, const KvCache& kv, FlashArgs args) const {
    const at::Tensor out = at::empty({q.size(0), q.size(1) * q.size(2)}, q.options().dtype(at::kFloat8_e4m3fn));
    const at::Tensor scale = at::empty({q.size(0), 1}, q.options().dtype(at::kFloat));
    args.out = out.mutable_data_ptr();
    RunDecode(layer, q, kv, args, scale.mutable_data_ptr<float>());
    return {out, scale, q.scalar_type()};
  }

  const std::string name_ = "flash_attention_2:cuda";
  int64_t group_;
  FlashPlan plan_;
};

std::string WhyNot(const AttentionNeeds& needs) {
  if (needs.dtype != at::kBFloat16 && needs.dtype != at::kHalf) {
    return fmt::format("has no CUDA version for {}", c10::toString(needs.dtype));
  }
  if (needs.head_dim % 8 != 0 || needs.head_dim > kMaxDim) {
    return fmt::format("takes heads of 8 to {} in eights on CUDA, not of {}", kMaxDim, needs.head_dim);
  }
  const c10::cuda::CUDAGuard guard(needs.device);
  const cudaDeviceProp& properties = *at::cuda::getCurrentDeviceProperties();
  if (properties.major < 8) {
    return fmt::format("needs compute capability 8.0, this device has {}.{}", properties.major, properties.minor);
  }
  if (HasFlashCode()) return "";
  return fmt::format("has no code for compute capability {}.{} in this build", properties.major, properties.minor);
}

}  // namespace

AttentionOr MakeCudaFlashAttention(const AttentionNeeds& needs) {
  if (const std::string reason = WhyNot(needs); !reason.empty()) {
    return absl::UnimplementedError("flash_attention_2 " + reason);
  }
  const c10::cuda::CUDAGuard guard(needs.device);
  const int64_t kv_heads = needs.num_kv_heads;
  const FlashDevice shape{.kv_heads = kv_heads,
                          .group = needs.num_heads / kv_heads,
                          .instance_dim = InstanceFor(needs.head_dim).dim,
                          .causal = needs.causal,
                          .multiprocessors = at::cuda::getCurrentDeviceProperties()->multiProcessorCount};
  return std::make_unique<CudaFlashAttention>(shape, needs.device);
}

}  // namespace automodeld
