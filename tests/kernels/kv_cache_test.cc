// What is written into a cache of another type than the model's: the conversion itself, and by every version of the op.
#include "kernels/kv_cache.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <limits>
#include <tuple>

#include "kernels/attention.h"
#include "kernels/ops.h"
#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

constexpr at::ScalarType kFp8 = at::kFloat8_e4m3fn;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

at::Tensor AllCodes() { return at::arange(256, at::kInt).to(at::kByte).view(kFp8); }

// Numbers of every size that e4m3 knows and beyond, every value halfway between two codes and its neighbours, and what
// is no number.
at::Tensor Difficult() {
  const at::Tensor random = at::randn({4096}, at::detail::createCPUGenerator(3), at::kFloat) *
                            at::logspace(-5, 4, 4096, 10, at::TensorOptions(at::kFloat));
  const at::Tensor codes = AllCodes().narrow(0, 0, 127).to(at::kFloat);
  const at::Tensor middle = (codes.narrow(0, 0, 126) + codes.narrow(0, 1, 126)) / 2;
  const at::Tensor infinity = at::full_like(middle, kInfinity);
  const at::Tensor special =
      at::tensor({0.0f, kInfinity, kNan, 448.0f, 449.0f, 464.0f, 465.0f, 480.0f, 1e30f, 1e-40f}, at::kFloat);
  const at::Tensor positive =
      at::cat({random.abs(), codes, middle, middle.nextafter(infinity), middle.nextafter(-infinity), special});
  return at::cat({positive, -positive});
}

// Equal, NaN to NaN.
void ExpectSameNumbers(const at::Tensor& got, const at::Tensor& expected, const std::string& what) {
  const at::Tensor wide = got.to(at::kFloat), reference = expected.to(at::kFloat);
  EXPECT_TRUE(at::equal(wide.isnan(), reference.isnan())) << what;
  EXPECT_TRUE(at::equal(wide.nan_to_num(0.0, 1e9, -1e9), reference.nan_to_num(0.0, 1e9, -1e9))) << what;
}

// One key has weight 1, so that flash attention gives its value as it reads it.
TEST(KvCache, FlashAttentionReadsEveryFp8CodeAsLibtorch) {
  for (const SimdLevel level : SimdLevels()) {
    const ScopedSimdLevel scoped(level);
    for (const int64_t head_dim : {256, 251}) {  // whole vectors, and a part of one
      const at::Tensor codes = AllCodes().narrow(0, 0, head_dim);
      const KvCache cache(2, 1, 16, 1, head_dim, at::TensorOptions(kFp8));
      cache.keys(0).copy_(at::zeros({}));
      StoredBytes(cache.values(0))[1][0][0].copy_(StoredBytes(codes));
      auto backend = MakeAttention("flash_attention_2", {.num_heads = 1, .num_kv_heads = 1, .head_dim = head_dim}, {});
      const std::vector<int32_t> pages = {1};
      (*backend)->Plan({.paged = {{0, 1, 1, pages}}, .ragged = {}, .page_size = 16, .num_decode = 1});
      const at::Tensor q = at::ones({1, 1, head_dim});
      const at::Tensor out =
          (*backend)->Run({.num_heads = 1, .num_kv_heads = 1, .head_dim = head_dim}, q, q, q, &cache).values;
      ExpectSameNumbers(out[0], codes.to(at::kFloat), "level " + std::to_string(static_cast<int>(level)));
    }
  }
}

TEST(KvCache, TheFusedOpStoresEveryNumberAsLibtorchStoresItWhenClamped) {
  constexpr int64_t kHeadDim = 67;  // whole vectors, and a part of one
  const at::Tensor numbers = Difficult();
  const int64_t tokens = numbers.size(0) / kHeadDim;
  const at::Tensor x = numbers.narrow(0, 0, tokens * kHeadDim).view({tokens, kHeadDim});
  const at::Tensor expected = x.clamp(-448.0, 448.0).to(kFp8);
  const Ops ops = FindFusedOps(EagerOps(), OpNames(), at::kCPU, at::kFloat).ops;
  for (const SimdLevel level : SimdLevels()) {
    const ScopedSimdLevel scoped(level);
    const KvCache cache(1, 1, tokens, 1, kHeadDim, at::TensorOptions(kFp8));
    ops.qkv_rope_write_kv(at::cat({x, x, x}, 1), 1, 1, std::nullopt, std::nullopt, 1e-6, std::nullopt,
                          at::zeros({tokens}, at::kLong), cache.keys(0), cache.values(0), at::arange(tokens, at::kLong),
                          1.0, 1.0);
    EXPECT_TRUE(at::equal(StoredBytes(cache.keys(0)).view_as(x), StoredBytes(expected))) << static_cast<int>(level);
    EXPECT_TRUE(at::equal(StoredBytes(cache.values(0)).view_as(x), StoredBytes(expected))) << static_cast<int>(level);
  }
}

TEST(KvCache, Fp8SaturatesAndKeepsNan) {
  for (const at::Device device : Devices()) {
    const at::Tensor x = at::tensor({kInfinity, -kInfinity, kNan, 1000.0f, -449.0f, 1.0f}, at::kFloat).to(device);
    const at::Tensor held = ToCache(x, kFp8, WriteScale("k_scale", kFp8, 1.0)).to(at::kFloat).to(at::kCPU);
    EXPECT_TRUE(held[2].isnan().item<bool>());
    const at::Tensor expected = at::tensor({448.0f, -448.0f, 0.0f, 448.0f, -448.0f, 1.0f}, at::kFloat);
    EXPECT_TRUE(at::equal(held.nan_to_num(), expected));
  }
}

// Half a unit of three stored bits, or of the smallest denormal; twice a last place for the scale's own rounding.
TEST(KvCache, WhatAScaleTakesAwayReadingGivesBack) {
  const at::Tensor x = at::randn({1000}, at::detail::createCPUGenerator(5), at::kFloat) * 100;
  for (const double scale : {1e-2, 1.0, 3.7, 5e4}) {
    const at::Tensor held = ToCache(x, kFp8, WriteScale("k_scale", kFp8, scale));
    const at::Tensor limit = x.clamp(-448.0 * scale, 448.0 * scale);
    const at::Tensor error = (held.to(at::kFloat) * ReadScale(kFp8, scale) - limit).abs();
    EXPECT_TRUE((error <= limit.abs() * (1.0 / 16 + 1e-6) + scale / 1024).all().item<bool>()) << scale;
  }
}

TEST(KvCache, ScalesOutsideTheirRangeAreRefusedWhereTheyCount) {
  for (const double scale : {0.0, -1.0, 1e-31, 1e31, double{kInfinity}, double{kNan}}) {
    EXPECT_THROW(WriteScale("k_scale", kFp8, scale), c10::Error) << scale;
    EXPECT_EQ(WriteScale("k_scale", at::kHalf, scale), 1.0f);
  }
  try {
    WriteScale("k_scale", kFp8, 0.0);
  } catch (const c10::Error& error) {
    EXPECT_STREQ(error.what_without_backtrace(), "k_scale: 0 is outside 1e-30..1e30");
  }
}

TEST(KvCache, AnFp8CacheTakesAQuarterOfAFloat32One) {
  const auto bytes = [](at::ScalarType type) { return KvCache(3, 2, 16, 2, 8, at::TensorOptions(type)).bytes(); };
  EXPECT_EQ(bytes(kFp8), 3 * 2 * 2 * 16 * 2 * 8);
  EXPECT_EQ(bytes(at::kFloat), 4 * bytes(kFp8));
}

// One call of the op: what it gives, and the cache that it wrote into.
struct Written {
  at::Tensor q, k, v, keys, values, slots;
};

struct WriteCase {
  at::ScalarType dtype, kv_dtype;
  double k_scale = 1.0, v_scale = 1.0;
  bool norm = false, rotate = true;
  int64_t head_dim = 80;
};

Written RunOp(const Ops& ops, const WriteCase& c, at::Device device = at::kCPU) {
  constexpr int64_t kTokens = 19, kHeads = 5, kKvHeads = 2, kPages = 5, kPageSize = 8;
  const at::Generator generator = at::detail::createCPUGenerator(11);
  const auto make = [&](at::IntArrayRef sizes) {
    return at::randn(sizes, generator, at::kFloat).to(c.dtype).to(device);
  };
  at::Tensor qkv = at::randn({kTokens, (kHeads + 2 * kKvHeads) * c.head_dim}, generator, at::kFloat);
  qkv[3] = kNan;
  qkv[4] = 3e4;
  const at::Tensor cos_sin = at::rand({40, 2, c.head_dim / 2}, generator, at::kFloat).to(device);
  std::optional<at::Tensor> q_norm, k_norm, angles;
  if (c.norm) q_norm = make({c.head_dim}), k_norm = make({c.head_dim});
  if (c.rotate) angles = cos_sin;
  const KvCache cache(kPages, 2, kPageSize, kKvHeads, c.head_dim, at::TensorOptions(c.kv_dtype).device(device));
  for (const int64_t layer : {0, 1}) {
    cache.keys(layer).copy_(at::full({}, 7.0));
    cache.values(layer).copy_(at::full({}, 7.0));
  }
  const at::Tensor slots = at::randperm(kPages * kPageSize, generator, at::kLong).narrow(0, 0, kTokens);
  const at::Tensor positions = at::arange(kTokens, at::kLong).to(device);
  const auto [q, k, v] =
      ops.qkv_rope_write_kv(qkv.to(c.dtype).to(device), kHeads, kKvHeads, q_norm, k_norm, 1e-6, angles, positions,
                            cache.keys(1), cache.values(1), slots.to(device), c.k_scale, c.v_scale);
  EXPECT_TRUE(cache.keys(0).to(at::kFloat).eq(7.0).all().item<bool>());
  const auto cpu = [](const at::Tensor& x) { return x.to(at::kCPU).contiguous(); };
  return {cpu(q), cpu(k), cpu(v), cpu(cache.keys(1)), cpu(cache.values(1)), slots};
}

// The slots' contents, and whether all others are untouched.
at::Tensor Slots(const at::Tensor& cache, const at::Tensor& slots) {
  const at::Tensor rows = cache.flatten(0, 1);
  const at::Tensor others = at::ones({rows.size(0)}, at::kBool).index_fill_(0, slots, false);
  EXPECT_TRUE(rows.to(at::kFloat).index({others}).eq(7.0).all().item<bool>());
  return SelectStored(rows, slots);
}

std::vector<WriteCase> WriteCases() {
  std::vector<WriteCase> cases;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const at::ScalarType kv_dtype : {at::kFloat, at::kBFloat16, at::kHalf, kFp8}) {
      cases.push_back({dtype, kv_dtype});
      cases.push_back({.dtype = dtype, .kv_dtype = kv_dtype, .rotate = false, .head_dim = 33});
      cases.push_back({.dtype = dtype, .kv_dtype = kv_dtype, .k_scale = 0.37, .v_scale = 12.5, .norm = true});
    }
  }
  return cases;
}

std::string Describe(const WriteCase& c) {
  return std::string(c10::toString(c.dtype)) + " into " + c10::toString(c.kv_dtype) + (c.norm ? ", norm" : "") +
         (c.rotate ? "" : ", no rotation");
}

// Against the definition: what a version gives as k and v is in the cache as ToCache makes it.
TEST(KvCache, EveryVersionWritesWhatItGivesRoundedToTheCachesType) {
  for (const at::Device device : Devices()) {
    for (const WriteCase& c : WriteCases()) {
      for (const Ops& ops : {EagerOps(), FindFusedOps(EagerOps(), OpNames(), device, c.dtype).ops}) {
        const Written w = RunOp(ops, c, device);
        const std::string what = Describe(c) + ", " + ops.qkv_rope_write_kv.version;
        const auto held = [&](const at::Tensor& x, double scale) {
          return ToCache(x, c.kv_dtype, WriteScale("scale", c.kv_dtype, scale));
        };
        ExpectSameNumbers(Slots(w.keys, w.slots), held(w.k, c.k_scale), what + ": keys");
        ExpectSameNumbers(Slots(w.values, w.slots), held(w.v, c.v_scale), what + ": values");
      }
    }
  }
}

// In 16 bits every product is rounded; in float32 the fused rotation is a multiply-add, and norms sum in another order,
// so that k may differ in a last place. All else has the same bits.
TEST(KvCache, FusedAndEagerWriteTheSameBits) {
  for (WriteCase c : WriteCases()) {
    c.norm = false;
    c.rotate = c.rotate && c.dtype != at::kFloat;
    const Written eager = RunOp(EagerOps(), c);
    const Written fused = RunOp(FindFusedOps(EagerOps(), OpNames(), at::kCPU, c.dtype).ops, c);
    ExpectSameNumbers(fused.keys, eager.keys, Describe(c) + ": keys");
    ExpectSameNumbers(fused.values, eager.values, Describe(c) + ": values");
    ExpectSameNumbers(fused.q, eager.q, Describe(c) + ": q");
  }
}

TEST(KvCache, ABadScaleOfTheOpIsNamed) {
  for (const Ops& ops : {EagerOps(), FindFusedOps(EagerOps(), OpNames(), at::kCPU, at::kFloat).ops}) {
    try {
      RunOp(ops, {.dtype = at::kFloat, .kv_dtype = kFp8, .v_scale = -2.0});
      FAIL() << "a negative scale was taken";
    } catch (const c10::Error& error) {
      EXPECT_STREQ(error.what_without_backtrace(), "qkv_rope_write_kv: v_scale: -2 is outside 1e-30..1e30");
    }
  }
}

}  // namespace
}  // namespace automodeld
