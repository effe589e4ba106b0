// Each head of q and k of each token is normed and rotated (kernels/cuda/rope_head.h); k and v go to the token's cache
// slot on the way, converted if the cache has another type.
// A thread takes two packs of a head, so that it has both numbers of a rotated pair; the neighbouring lanes of a head
// add up its squares. Reads qkv once; writes q, k and the slots. v, and q and k where nothing changes them, are views
// of qkv.
#include <bit>

#include "kernels/cuda/rope_head.h"
#include "kernels/kv_cache.h"
#include "kernels/op_samples.h"
#include "kernels/qkv_rope_write_kv.h"
#include "kernels/registry.h"

namespace automodeld {
namespace {

constexpr int kThreads = 128;
constexpr int kScalarParts = 4;  // of a head a lane, without packs: heads of up to 256

// Where keys or values of a layer go.
struct CacheSlots {
  void* base;
  at::ScalarType type;  // kFloat, kBFloat16, kHalf or kFloat8_e4m3fn
  float write_scale;
};

template <typename T>
struct RopeArgs {
  const T *qkv, *q_norm, *k_norm;    // norms may be null
  const float* cos_sin;              // [max_positions, 2, half]; null: no rotation
  const int64_t *positions, *slots;  // slots may be null
  T *q, *k;                          // null: nothing changes them
  CacheSlots k_cache, v_cache;
  int64_t qkv_stride, page_stride, slot_stride;  // in elements
  int heads, kv_heads, head_dim, half;
  int first_head, end_head;  // of q, k and v side by side: those that there is something to do for
  int lane_bits;             // 2 to this power are the lanes of a head
  unsigned page_size;
  float eps;
};

template <int W, typename T>
__device__ void WriteSlot(const CacheSlots& cache, int64_t offset, const Pack<T, W>& x) {
  const auto convert = [&](auto zero) {
    using Cache = decltype(zero);
    Pack<Cache, W> held;
    for (int j = 0; j < W; ++j) held[j] = RoundTo<Cache>(static_cast<float>(x[j]));
    Store(static_cast<Cache*>(cache.base) + offset, held);
  };
  if (cache.type == at::kFloat) return convert(float{});
  if (cache.type == at::kBFloat16) return convert(at::BFloat16{});
  if (cache.type == at::kHalf) return convert(at::Half{});
  Store(static_cast<uint8_t*>(cache.base) + offset, ToE4m3Cache(x, cache.write_scale));
}

// Every pack begins on its own border; a head has at most N parts a lane.
template <typename T, int W, int N>
__global__ void __launch_bounds__(kThreads) qkv_rope_write_kv_kernel(const RopeArgs<T> a) {
  AllowNext();
  const int64_t token = blockIdx.x;
  const int index = static_cast<int>(blockIdx.y * kThreads + threadIdx.x), lanes = 1 << a.lane_bits;
  const int head = a.first_head + (index >> a.lane_bits), lane = index & (lanes - 1);
  const bool exists = head < a.end_head, is_q = head < a.heads, is_v = head >= a.heads + a.kv_heads;
  const T* norm = is_v ? nullptr : is_q ? a.q_norm : a.k_norm;
  const bool rotates = a.cos_sin != nullptr && !is_v;
  // Positions and slots come from the host before the step: no kernel of it writes them.
  const int64_t position = rotates ? a.positions[token] : 0;
  const int64_t slot = a.slots != nullptr ? a.slots[token] : 0;
  HeadPart<T, W> x[N], weight[N];
  Angles<T, W> angles[N] = {};
  for (int n = 0; n < N; ++n) {
    x[n].PlaceAt(lane + n * lanes, a.half, a.head_dim);
    weight[n].PlaceAt(lane + n * lanes, a.half, a.head_dim);
    if (norm != nullptr) weight[n].LoadFrom(norm);
    if (rotates) angles[n] = x[n].LoadAngles(a.cos_sin + position * 2 * a.half, a.half);
  }
  AwaitPrevious();
  if (exists) {
    for (int n = 0; n < N; ++n) x[n].LoadFrom(a.qkv + token * a.qkv_stride + int64_t{head} * a.head_dim);
  }
  if (a.q_norm != nullptr || a.k_norm != nullptr) {  // the same for all lanes of a warp
    float squares = 0;
    for (int n = 0; n < N; ++n) squares += x[n].Squares();
    const float scale = InverseRms(LanesSum(squares, lanes), a.head_dim, a.eps);
    for (int n = 0; n < N && norm != nullptr; ++n) x[n].Normalize(scale, weight[n]);
  }
  if (!exists) return;
  for (int n = 0; n < N && rotates; ++n) x[n].Rotate(angles[n]);
  if (a.q != nullptr && !is_v) {
    T* to =
        is_q ? a.q + (token * a.heads + head) * a.head_dim : a.k + (token * a.kv_heads + head - a.heads) * a.head_dim;
    for (int n = 0; n < N; ++n) {
      x[n].ForEachPack([&](int column, const Pack<T, W>& pack) { Store(to + column, pack); });
    }
  }
  if (a.slots == nullptr || is_q) return;
  const unsigned page = static_cast<unsigned>(slot) / a.page_size, row = static_cast<unsigned>(slot) % a.page_size;
  const int kv_head = head - a.heads - (is_v ? a.kv_heads : 0);
  const int64_t offset = page * a.page_stride + row * a.slot_stride + int64_t{kv_head} * a.head_dim;
  const CacheSlots& cache = is_v ? a.v_cache : a.k_cache;
  for (int n = 0; n < N; ++n) {
    x[n].ForEachPack([&](int column, const Pack<T, W>& pack) { WriteSlot(cache, offset + column, pack); });
  }
}

CacheSlots SlotsOf(const char* scale_name, const at::Tensor& cache, double scale) {
  if (!cache.defined()) return {};
  return {.base = cache.mutable_data_ptr(),
          .type = cache.scalar_type(),
          .write_scale = WriteScale(scale_name, cache.scalar_type(), scale)};
}

// Null is on every border.
bool OnBorder(const void* x, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(x) % static_cast<uintptr_t>(bytes) == 0;
}

template <int W, typename T>
bool FitsPacks(const RopeArgs<T>& a) {
  const bool divides = a.head_dim % (2 * W) == 0 && a.half % W == 0 &&
                       (a.qkv_stride | a.page_stride | a.slot_stride) % W == 0 && a.head_dim <= 2 * W * kWarp;
  const auto cache_fits = [](const CacheSlots& cache) {
    return cache.base == nullptr || OnBorder(cache.base, W * static_cast<int64_t>(c10::elementSize(cache.type)));
  };
  return divides && Aligned16(a.qkv, a.q_norm, a.k_norm, a.q, a.k) && OnBorder(a.cos_sin, W * sizeof(float)) &&
         cache_fits(a.k_cache) && cache_fits(a.v_cache);
}

template <typename T>
void LaunchRope(RopeArgs<T> a, int64_t tokens) {
  constexpr int kWide = 16 / sizeof(T);
  const bool wide = FitsPacks<kWide>(a);
  const int pack = wide ? kWide : 1, parts = (a.head_dim + 2 * pack - 1) / (2 * pack);
  const auto lanes = std::min(std::bit_ceil(static_cast<unsigned>(parts)), static_cast<unsigned>(kWarp));
  a.lane_bits = std::countr_zero(lanes);
  const unsigned threads = static_cast<unsigned>(a.end_head - a.first_head) * lanes;
  const dim3 grid(static_cast<unsigned>(tokens), (threads + kThreads - 1) / kThreads);
  const auto kernel = wide ? qkv_rope_write_kv_kernel<T, kWide, 1> : qkv_rope_write_kv_kernel<T, 1, kScalarParts>;
  Launch(kernel, grid, kThreads, 0, a);
}

// Positions and slots are on the device and are not checked.
struct CudaRope {
  static bool Takes(const RopeTensors& t) {
    if (t.qkv.numel() == 0 || t.head_dim > 2 * kScalarParts * kWarp) return false;
    if (std::max(t.qkv.size(0), t.qkv.size(1)) > INT32_MAX / kWarp) return false;
    if (!HasTypeIfAny(t.cos_sin, at::kFloat) || !HasTypeIfAny(t.positions, at::kLong)) return false;
    if (!t.slots.defined()) return true;
    const auto is_small = [](const at::Tensor& cache) { return cache.size(0) * cache.size(1) <= INT32_MAX; };
    return HasTypeIfAny(t.slots, at::kLong) && is_small(t.k_cache) && is_small(t.v_cache);
  }

  static void Check(const RopeTensors& t) {
    if (!t.slots.defined()) return;
    CheckShape("qkv_rope_write_kv: k_cache", t.k_cache, {t.k_cache.size(0), t.k_cache.size(1), t.kv_heads, t.head_dim});
    CheckShape("qkv_rope_write_kv: v_cache", t.v_cache, t.k_cache.sizes());
  }

  template <typename T>
  static void Run(const RopeTensors& t, at::Tensor& q, at::Tensor& k) {
    const c10::DeviceGuard guard(t.qkv.device());
    const bool write = t.slots.defined();
    const int64_t changed_heads = t.heads + t.kv_heads, first = t.changes() ? 0 : t.heads;
    LaunchRope<T>({.qkv = t.qkv.const_data_ptr<T>(),
                   .q_norm = DataOrNull<T>(t.q_norm),
                   .k_norm = DataOrNull<T>(t.k_norm),
                   .cos_sin = DataOrNull<float>(t.cos_sin),
                   .positions = DataOrNull<int64_t>(t.positions),
                   .slots = DataOrNull<int64_t>(t.slots),
                   .q = t.changes() ? q.mutable_data_ptr<T>() : nullptr,
                   .k = t.changes() ? k.mutable_data_ptr<T>() : nullptr,
                   .k_cache = SlotsOf("qkv_rope_write_kv: k_scale", t.k_cache, t.k_scale),
                   .v_cache = SlotsOf("qkv_rope_write_kv: v_scale", t.v_cache, t.v_scale),
                   .qkv_stride = t.qkv.stride(0),
                   .page_stride = write ? t.k_cache.stride(0) : 0,
                   .slot_stride = write ? t.k_cache.stride(1) : 0,
                   .heads = static_cast<int>(t.heads),
                   .kv_heads = static_cast<int>(t.kv_heads),
                   .head_dim = static_cast<int>(t.head_dim),
                   .half = static_cast<int>(t.half()),
                   .first_head = static_cast<int>(first),
                   .end_head = static_cast<int>(write ? changed_heads + t.kv_heads : changed_heads),
                   .lane_bits = 0,
                   .page_size = write ? static_cast<unsigned>(t.k_cache.size(1)) : 1,
                   .eps = static_cast<float>(t.eps)},
                  t.qkv.size(0));
  }
};

const bool registered =
    RegisterKernel(&Ops::qkv_rope_write_kv, at::kCUDA, FusedDtypes(), QkvRopeWriteKv<CudaRope>, QkvRopeWriteKvSamples);

}  // namespace
}  // namespace automodeld
