// flash_attention_2 on CUDA. A step is at most three launches: decode rows, other rows of pages, ragged rows. Where
// there are decode rows alone, that launch can do the work of qkv_rope_write_kv too.
#include "kernels/cuda/flash_attention.h"

#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>
#include <fmt/format.h>

#include <algorithm>
#include <numbers>

#include "kernels/attention_backends.h"
#include "kernels/cuda/flash_attention_plan.h"
#include "kernels/cuda/flash_attention_wide.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/skinny_linear.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/widen_pages.h"
#include "kernels/fp8.h"
#include "kernels/registry.h"

namespace automodeld {
namespace {

struct Instance {
  int64_t dim;
  void (*launch)(FlashKind kind, FlashElement type, FlashHeld held, const FlashArgs& args);
  bool (*has_code)();
};
template <int Dim>
constexpr Instance kInstance = {Dim, LaunchFlash<Dim>, HasFlashCode<Dim>};
constexpr Instance kInstances[] = {kInstance<32>, kInstance<64>,  kInstance<80>,
                                   kInstance<96>, kInstance<128>, kInstance<256>};
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
      TORCH_CHECK(false, "attention: elements are ", x.scalar_type(),
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

FlashHeld HeldAs(const at::Tensor& keys, const at::Tensor& values, const at::Tensor& q) {
  if (!OnBordersOf16(keys) || !OnBordersOf16(values)) return FlashHeld::kOther;
  if (keys.scalar_type() == q.scalar_type()) return FlashHeld::kSame;
  const bool bytes = keys.scalar_type() == at::kFloat8_e4m3fn && q.scalar_type() != at::kFloat;
  return bytes ? FlashHeld::kBytes : FlashHeld::kOther;
}

// Of a cache [pages, page_size, heads, head_dim] or of rows [tokens, heads, head_dim].
FlashSource SourceOf(const at::Tensor& keys, const at::Tensor& values) {
  TORCH_CHECK(keys.strides() == values.strides(), "attention: keys have strides ", keys.strides(), ", values ",
              values.strides());
  return {.keys = keys.const_data_ptr(),
          .values = values.const_data_ptr(),
          .page_stride = keys.dim() == 4 ? keys.stride(0) : 0,
          .token_stride = keys.stride(-3)};
}

FlashMaps MapsOf(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values) {
  const auto map = [](const at::Tensor& x, uint32_t heads, uint32_t tokens) {
    const at::Tensor pages = x.dim() == 4 ? x : x.unsqueeze(0);
    const auto size = [&](int64_t i) { return static_cast<uint64_t>(pages.size(i)); };
    const auto stride = [&](int64_t i) { return static_cast<uint64_t>(pages.stride(i) * pages.element_size()); };
    return MapOf("attention", CU_TENSOR_MAP_DATA_TYPE_UINT16, x.const_data_ptr(), {size(3), size(2), size(1), size(0)},
                 {stride(2), stride(1), stride(0)}, {64, heads, tokens, 1});
  };
  const int64_t group = q.size(1) / keys.size(-2);
  return {.queries = map(q, static_cast<uint32_t>(group), static_cast<uint32_t>(WideTokens(group))),
          .keys = map(keys, 1, kWideBoxKeys),
          .values = map(values, 1, kWideBoxKeys)};
}

// Whether kernels can read x in packs of 8 elements; undefined: there is nothing to read.
bool IsInPacks(const at::Tensor& x, at::ScalarType type, at::IntArrayRef sizes) {
  if (!x.defined()) return true;
  const auto place = reinterpret_cast<uintptr_t>(x.const_data_ptr());
  return x.scalar_type() == type && x.sizes() == sizes && x.is_contiguous() && place % (8 * x.element_size()) == 0;
}

bool IsIndex(const at::Tensor& x, int64_t tokens) {
  return x.defined() && x.scalar_type() == at::kLong && x.dim() == 1 && x.size(0) == tokens && x.is_contiguous();
}

at::Tensor OrUndefined(const std::optional<at::Tensor>& x) { return x.value_or(at::Tensor()); }

// Whether heads, norms and angles come in packs of 8 elements, as qkv_rope_write_kv.cu takes them in then: in other
// packs it adds up a head's squares in another order.
bool ComesInPacks(const AttentionLayer& layer, const RawQkv& raw) {
  const at::ScalarType type = raw.qkv.scalar_type();
  const int64_t width = (layer.num_heads + 2 * layer.num_kv_heads) * layer.head_dim;
  if (raw.qkv.dim() != 2 || raw.qkv.size(1) != width || raw.qkv.stride(1) != 1 || !OnBordersOf16(raw.qkv)) return false;
  for (const at::Tensor& norm : {OrUndefined(raw.q_norm), OrUndefined(raw.k_norm)}) {
    if (!IsInPacks(norm, type, {layer.head_dim})) return false;
  }
  if (!raw.cos_sin.defined()) return true;
  const int64_t half = raw.cos_sin.size(-1);
  return half % 8 == 0 && 2 * half <= layer.head_dim && IsIndex(raw.positions, raw.qkv.size(0)) &&
         IsInPacks(raw.cos_sin, at::kFloat, {raw.cos_sin.size(0), 2, half});
}

FlashRaw RawOf(const AttentionLayer& layer, const RawQkv& raw, const KvCache& kv) {
  const auto data = [](const at::Tensor& x) { return x.defined() ? x.const_data_ptr() : nullptr; };
  FlashRaw to;
  to.q_norm = data(OrUndefined(raw.q_norm));
  to.k_norm = data(OrUndefined(raw.k_norm));
  to.slots = raw.slots.const_data_ptr<int64_t>();
  to.keys = kv.keys(layer.index).mutable_data_ptr();
  to.values = kv.values(layer.index).mutable_data_ptr();
  to.k_write_scale = WriteScale("qkv_rope_write_kv: k_scale", kv.dtype(), layer.k_scale);
  to.v_write_scale = WriteScale("qkv_rope_write_kv: v_scale", kv.dtype(), layer.v_scale);
  to.eps = static_cast<float>(raw.eps);
  if (!raw.cos_sin.defined()) return to;
  to.cos_sin = raw.cos_sin.const_data_ptr<float>();
  to.positions = raw.positions.const_data_ptr<int64_t>();
  to.half = static_cast<int32_t>(raw.cos_sin.size(2));
  return to;
}

class CudaFlashAttention final : public AttentionBackend {
 public:
  CudaFlashAttention(const FlashDevice& shape, const AttentionNeeds& needs)
      : group_(shape.group),
        head_dim_(needs.head_dim),
        multiprocessors_(shape.multiprocessors),
        dtype_(needs.dtype),
        plan_(shape, needs.device) {}

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
    const at::Tensor out = at::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
    args.out = out.mutable_data_ptr();
    if (plan_.num_decode() > 0) RunDecode(layer, queries, *kv, args);
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

  bool TakesRaw(const std::string& version, at::ScalarType kv_dtype) const override {
    return version == VersionName(at::kCUDA) && head_dim_ % 16 == 0 && dtype_ != at::kFloat &&
           (kv_dtype == dtype_ || kv_dtype == at::kFloat8_e4m3fn);
  }

  std::optional<LinearInput> RunRaw(const AttentionLayer& layer, const RawQkv& raw, const KvCache& kv) override {
    if (!CanRunRaw(layer, raw, kv)) return std::nullopt;
    const c10::cuda::CUDAGuard guard(raw.qkv.device());
    FlashArgs args = ArgsOf(layer, raw.qkv);
    args.raw = RawOf(layer, raw, kv);
    const at::Tensor out = at::empty({raw.qkv.size(0), layer.num_heads * layer.head_dim}, raw.qkv.options());
    args.out = out.mutable_data_ptr();
    RunDecode(layer, raw.qkv, kv, args);
    return QuantizedIf(layer.quantize, out);
  }

 private:
  bool CanRunRaw(const AttentionLayer& layer, const RawQkv& raw, const KvCache& kv) const {
    if (!plan_.is_decode() || plan_.decode_kind() != FlashKind::kDecode) return false;
    if (!TakesRaw(raw.version, kv.dtype()) || raw.qkv.scalar_type() != dtype_) return false;
    const at::Tensor keys = kv.keys(layer.index);
    return layer.head_dim == head_dim_ && layer.num_heads == layer.num_kv_heads * group_ &&
           raw.qkv.size(0) == plan_.num_decode() && ComesInPacks(layer, raw) && IsIndex(raw.slots, raw.qkv.size(0)) &&
           HeldAs(keys, kv.values(layer.index), raw.qkv) != FlashHeld::kOther && kv.page_size() == plan_.page_size() &&
           keys.size(0) * kv.page_size() <= INT32_MAX && keys.size(2) == layer.num_kv_heads &&
           keys.size(3) == head_dim_;
  }

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
  static void TakeSource(const AttentionLayer& layer, const at::Tensor& keys, const at::Tensor& values,
                         const KvCache* kv, FlashArgs& args) {
    const AttentionFactors factors = FactorsOf(layer, kv);
    const double cap = layer.soft_cap;
    args.source = SourceOf(keys, values);
    args.score_factor = static_cast<float>((cap > 0.0 ? cap : factors.scores) * std::numbers::log2e);
    args.cap_factor = cap > 0.0 ? static_cast<float>(factors.scores / cap) : 0.0f;
    args.result_factor = static_cast<float>(factors.results);
    args.element = ElementOf(keys);
  }

  // Whether the pages of prompts are so few for their rows that it pays to make them the queries' type.
  bool Widens(const at::Tensor& keys, const KvCache* kv) const {
    constexpr int64_t kMostPerRow = 16, kMostTokens = 1 << 15;
    const int64_t tokens = plan_.num_prefill_pages() * plan_.page_size();
    return kv != nullptr && tokens > 0 && tokens <= std::min(kMostTokens, kMostPerRow * plan_.prefill_rows()) &&
           kv->page_size() == plan_.page_size() && keys[0].is_contiguous();
  }

  void RunTiles(const FlashTiles& tiles, const AttentionLayer& layer, const at::Tensor& q, at::Tensor keys,
                at::Tensor values, const KvCache* kv, FlashArgs args) const {
    const bool bfloat16 = q.scalar_type() == at::kBFloat16;
    const bool has_wide = tiles.num_wide > 0 && layer.head_dim == head_dim_;
    FlashHeld held = HeldAs(keys, values, q);
    if (has_wide && held == FlashHeld::kBytes && Widens(keys, kv)) {
      const FlashSource from = SourceOf(keys, values);
      const int64_t pages = plan_.num_prefill_pages();
      std::vector<int64_t> sizes = keys.sizes().vec();
      sizes[0] = pages;
      keys = at::empty(sizes, q.options());
      values = at::empty(sizes, q.options());
      WidenPages(bfloat16, from, args.pages + plan_.first_prefill_page(), pages, keys.stride(0),
                 keys.mutable_data_ptr(), values.mutable_data_ptr());
      args.pages = nullptr;
      args.first_page = static_cast<int32_t>(plan_.first_prefill_page());
      held = FlashHeld::kSame;
    }
    TakeSource(layer, keys, values, kv, args);
    const bool wide = has_wide && held == FlashHeld::kSame;
    args.items = plan_.items(wide ? tiles.first_wide() : tiles.first_item);
    args.num_items = static_cast<int32_t>(wide ? tiles.num_wide : tiles.num_items);
    if (!wide) return InstanceFor(layer.head_dim).launch(tiles.kind, ElementOf(q), held, args);
    const auto launch = layer.head_dim == 64 ? LaunchWideFlash<64> : LaunchWideFlash<128>;
    launch(bfloat16, multiprocessors_, MapsOf(q, keys, values), args);
  }

  void RunDecode(const AttentionLayer& layer, const at::Tensor& q, const KvCache& kv, FlashArgs args) const {
    const FlashSplits& splits = plan_.splits();
    const int64_t tile = FlashRows(FlashKind::kDecode, layer.head_dim);
    const int64_t items = plan_.num_decode() * ((group_ + tile - 1) / tile);
    at::Tensor parts;
    if (splits.blocks > splits.cluster) {
      const int64_t num_parts = items * layer.num_kv_heads * splits.blocks / splits.cluster;
      parts = at::empty({num_parts, std::min(group_, tile), layer.head_dim + 4}, q.options().dtype(at::kFloat));
      args.parts = parts.mutable_data_ptr<float>();
      args.tickets = plan_.tickets();
    }
    args.splits = static_cast<int32_t>(splits.blocks);
    args.cluster = static_cast<int32_t>(splits.cluster);
    args.fresh_keys = static_cast<int32_t>(plan_.fresh_keys());
    args.num_items = static_cast<int32_t>(items);
    const at::Tensor keys = kv.keys(layer.index), values = kv.values(layer.index);
    TakeSource(layer, keys, values, &kv, args);
    InstanceFor(layer.head_dim).launch(plan_.decode_kind(), ElementOf(q), HeldAs(keys, values, q), args);
  }

  const std::string name_ = "flash_attention_2:cuda";
  int64_t group_, head_dim_, multiprocessors_;
  at::ScalarType dtype_;
  FlashPlan plan_;
};

std::string WhyNot(const AttentionNeeds& needs) {
  if (needs.dtype != at::kBFloat16 && needs.dtype != at::kHalf && needs.dtype != at::kFloat) {
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
  if (InstanceFor(needs.head_dim).has_code()) return "";
  return fmt::format("has no code for compute capability {}.{} in this build", properties.major, properties.minor);
}

}  // namespace

AttentionOr MakeCudaFlashAttention(const AttentionNeeds& needs) {
  if (const std::string reason = WhyNot(needs); !reason.empty()) {
    return absl::UnimplementedError("flash_attention_2 " + reason);
  }
  const c10::cuda::CUDAGuard guard(needs.device);
  const int64_t kv_heads = needs.num_kv_heads;
  const cudaDeviceProp& properties = *at::cuda::getCurrentDeviceProperties();
  const int64_t group = needs.num_heads / kv_heads;
  const bool is_wide =
      IsHopper(needs.device) && needs.dtype != at::kFloat && (needs.head_dim == 64 || needs.head_dim == 128);
  const FlashDevice shape{.kv_heads = kv_heads,
                          .group = group,
                          .instance_dim = InstanceFor(needs.head_dim).dim,
                          .causal = needs.causal,
                          .wide_tokens = is_wide ? WideTokens(group) : 0,
                          .multiprocessors = properties.multiProcessorCount,
                          .clusters = HasHopperLaunches()};
  return std::make_unique<CudaFlashAttention>(shape, needs);
}

}  // namespace automodeld
