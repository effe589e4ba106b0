// Microseconds and GB/s of every fused op on a GPU, at shapes of models:
//   kernels_test --gtest_also_run_disabled_tests --gtest_filter='FusedBench.*'
// A graph holds a chain of calls; the time is the median replay's over the number of calls. Inputs of up to 512 rows
// are in the GPU's cache, where the op before leaves them; of more rows they are different ones, together larger than
// it. Bytes: what the op has to read and to write.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>

#include "kernels/fp8.h"
#include "kernels/kv_cache.h"
#include "kernels/registry.h"
#include "tests/kernels/captured_graph.h"

namespace automodeld {
namespace {

#if AUTOMODELD_GRAPHS

constexpr int64_t kCacheBytes = 200 << 20, kMostBytes = int64_t{8} << 30, kMostCalls = 32;
constexpr int64_t kRowsInCache = 512;

using Tensors = std::vector<at::Tensor>;  // what a call gave

struct Case {
  std::string name;
  at::ScalarType dtype;
  int64_t bytes;  // of a row
  std::function<at::Tensor(int64_t rows, const at::TensorOptions& options)> make;
  std::function<Tensors(const Ops& ops, const at::Tensor& x)> run;
};

at::Tensor Normal(at::IntArrayRef sizes, const at::TensorOptions& options) { return at::randn(sizes, options); }

Case EmbedCase(const std::string& name, int64_t width) {
  constexpr int64_t kVocab = 32768;
  const at::Tensor weight = Normal({kVocab, width}, at::TensorOptions(at::kBFloat16).device(at::kCUDA));
  return {name, at::kBFloat16, width * 4,
          [](int64_t rows, const at::TensorOptions& options) {
            return at::randint(kVocab, {rows}, options.dtype(at::kLong));
          },
          [weight](const Ops& ops, const at::Tensor& x) -> Tensors {
            return {ops.embed_tokens(x, std::nullopt, weight, 1.0)};
          }};
}

Case NormCase(const std::string& name, int64_t width, at::ScalarType dtype, bool layer_norm, bool quantize) {
  const int64_t size = static_cast<int64_t>(c10::elementSize(dtype));
  const auto weight = Normal({2, width}, at::TensorOptions(dtype).device(at::kCUDA));
  return {name + (quantize ? ", quantised" : ""), dtype, width * (3 * size + (quantize ? 1 : size)),
          [width](int64_t rows, const at::TensorOptions& options) {
            return Normal({2, rows, width}, options);
          },
          [weight, layer_norm, quantize](const Ops& ops, const at::Tensor& x) -> Tensors {
            const auto [y, scale, sum] = layer_norm ? ops.layer_norm(x[0], x[1], weight[0], weight[1], 1e-12, quantize)
                                                    : ops.rms_norm(x[0], x[1], weight[0], 1e-6, quantize);
            return {y, scale, sum};
          }};
}

Case ActMulCase(const std::string& name, int64_t width, bool quantize) {
  return {name + (quantize ? ", quantised" : ""), at::kBFloat16, width * (4 + (quantize ? 1 : 2)),
          [width](int64_t rows, const at::TensorOptions& options) {
            return Normal({rows, 2 * width}, options);
          },
          [quantize](const Ops& ops, const at::Tensor& x) -> Tensors {
            const auto [y, scale] = ops.act_mul(x, "silu", quantize);
            return {y, scale};
          }};
}

Case QuantizeCase(const std::string& name, int64_t width) {
  return {name, at::kBFloat16, width * 3,
          [width](int64_t rows, const at::TensorOptions& options) {
            return Normal({rows, width}, options);
          },
          [](const Ops&, const at::Tensor& x) -> Tensors {
            const LinearInput rows = QuantizeRows(x);
            return {rows.values, rows.scale};
          }};
}

// A cache of 16,384 tokens in pages of 16; the rows' slots are in order.
Case QkvCase(const std::string& name, int64_t heads, int64_t kv_heads, bool norm, at::ScalarType cache_type) {
  constexpr int64_t kHeadDim = 128, kTokens = 16384, kPage = 16;
  const auto options = at::TensorOptions(at::kBFloat16).device(at::kCUDA);
  const KvCache cache(kTokens / kPage, 2, kPage, kv_heads, kHeadDim, options.dtype(cache_type));
  const at::Tensor cos_sin = Normal({kTokens, 2, kHeadDim / 2}, options.dtype(at::kFloat));
  const at::Tensor tokens = at::arange(kTokens, options.dtype(at::kLong)), weight = Normal({kHeadDim}, options);
  const int64_t kv = kv_heads * kHeadDim, width = heads * kHeadDim + 2 * kv;
  const std::optional<at::Tensor> head_norm = norm ? std::optional(weight) : std::nullopt;
  const auto cache_size = static_cast<int64_t>(c10::elementSize(cache_type));
  return {name, at::kBFloat16, width * 2 + heads * kHeadDim * 2 + kv * 2 + 2 * kv * cache_size,
          [width](int64_t rows, const at::TensorOptions& o) {
            return Normal({rows, width}, o);
          },
          [=](const Ops& ops, const at::Tensor& x) -> Tensors {
            const at::Tensor here = tokens.narrow(0, 0, x.size(0));
            const auto [q, k, v] = ops.qkv_rope_write_kv(x, heads, kv_heads, head_norm, head_norm, 1e-6, cos_sin, here,
                                                         cache.keys(1), cache.values(1), here, 1.0, 1.0);
            return {q, k, v};
          }};
}

std::string Cell(const Case& c, int64_t rows) {
  const int64_t bytes = c.bytes * rows, calls = std::clamp(kMostBytes / bytes, int64_t{4}, kMostCalls);
  const int64_t sets = rows > kRowsInCache ? std::clamp(kCacheBytes / bytes + 1, int64_t{2}, calls) : 2;
  const at::TensorOptions options = at::TensorOptions(c.dtype).device(at::kCUDA);
  Tensors inputs;
  for (int64_t i = 0; i < sets; ++i) inputs.push_back(c.make(rows, options));
  const Ops ops = FindFusedOps(EagerOps(), OpNames(), at::kCUDA, c.dtype).ops;
  std::vector<Tensors> kept(static_cast<size_t>(calls));  // so that no call writes where another did
  CapturedGraph graph([&] {
    for (int64_t i = 0; i < calls; ++i) {
      kept[static_cast<size_t>(i)] = c.run(ops, inputs[static_cast<size_t>(i % sets)]);
    }
  });
  const double microseconds = graph.Microseconds(9) / static_cast<double>(calls);
  return fmt::format("{:.2f} ({:.0f})", microseconds, static_cast<double>(bytes) / microseconds / 1e3);
}

TEST(FusedBench, DISABLED_MicrosecondsAndGigabytesPerSecond) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  const std::vector<Case> cases = {EmbedCase("embed_tokens 4096", 4096),
                                   NormCase("rms_norm 8", 8, at::kBFloat16, false, false),
                                   NormCase("rms_norm 4096", 4096, at::kBFloat16, false, false),
                                   NormCase("rms_norm 4096", 4096, at::kBFloat16, false, true),
                                   NormCase("rms_norm 1024", 1024, at::kBFloat16, false, false),
                                   NormCase("rms_norm 1024", 1024, at::kBFloat16, false, true),
                                   NormCase("layer_norm 384 float32", 384, at::kFloat, true, false),
                                   NormCase("layer_norm 384 float16", 384, at::kHalf, true, false),
                                   ActMulCase("act_mul 14336", 14336, false),
                                   ActMulCase("act_mul 14336", 14336, true),
                                   ActMulCase("act_mul 3072", 3072, false),
                                   ActMulCase("act_mul 3072", 3072, true),
                                   QuantizeCase("QuantizeRows 4096", 4096),
                                   QuantizeCase("QuantizeRows 14336", 14336),
                                   QkvCase("qkv 32/8 heads", 32, 8, false, at::kBFloat16),
                                   QkvCase("qkv 32/8 heads, FP8 cache", 32, 8, false, at::kFloat8_e4m3fn),
                                   QkvCase("qkv 16/8 heads, norm", 16, 8, true, at::kBFloat16)};
  fmt::print("| µs (GB/s) | 1 row | 8 | 64 | 512 | 8192 |\n| --- | --- | --- | --- | --- | --- |\n");
  for (const Case& c : cases) {
    std::string line = "| " + c.name;
    for (const int64_t rows : {1, 8, 64, 512, 8192}) line += " | " + Cell(c, rows);
    fmt::print("{} |\n", line);
    std::fflush(stdout);
  }
}

#endif

}  // namespace
}  // namespace automodeld
