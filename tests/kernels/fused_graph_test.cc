// Fused ops inside a CUDA graph: a replay reads what stands in its inputs by then.
#include <gtest/gtest.h>

#include "kernels/fp8.h"
#include "kernels/kv_cache.h"
#include "kernels/registry.h"
#include "tests/kernels/captured_graph.h"

namespace automodeld {
namespace {

#if AUTOMODELD_GRAPHS

// What a layer does around its products, on 5 tokens: every op once, each on what the one before gave.
struct Chain {
  static constexpr int64_t kTokens = 5, kHeads = 6, kKvHeads = 2, kHeadDim = 64, kPages = 4, kPage = 16;
  static constexpr int64_t kWidth = (kHeads + 2 * kKvHeads) * kHeadDim;

  at::TensorOptions options = at::TensorOptions(at::kBFloat16).device(at::kCUDA);
  Ops ops = FindFusedOps(EagerOps(), OpNames(), at::kCUDA, at::kBFloat16).ops;
  at::Tensor x = at::empty({kTokens, kWidth}, options), residual = at::empty({kTokens, kWidth}, options);
  at::Tensor positions = at::empty({kTokens}, options.dtype(at::kLong)), slots = at::empty_like(positions);
  at::Tensor weight = at::randn({kWidth}, options), head_norm = at::randn({kHeadDim}, options);
  at::Tensor cos_sin = at::randn({100, 2, kHeadDim / 2}, options.dtype(at::kFloat));
  KvCache cache{kPages, 1, kPage, kKvHeads, kHeadDim, options.dtype(at::kFloat8_e4m3fn)};

  void Fill(uint64_t seed) {
    at::manual_seed(seed);
    x.normal_();
    residual.normal_();
    positions.random_(0, 100);
    slots.copy_(at::randperm(kPages * kPage, options.dtype(at::kLong)).narrow(0, 0, kTokens));
    StoredBytes(cache.keys(0)).zero_();
    StoredBytes(cache.values(0)).zero_();
  }

  std::vector<at::Tensor> Run() {
    const auto [normal, no_scale, sum] = ops.rms_norm(x, residual, weight, 1e-6, false);
    const auto [q, k, v] = ops.qkv_rope_write_kv(normal, kHeads, kKvHeads, head_norm, head_norm, 1e-6, cos_sin,
                                                 positions, cache.keys(0), cache.values(0), slots, 0.5, 2.0);
    const auto [centred, row_scale, same_sum] = ops.layer_norm(sum, normal, weight, weight, 1e-5, true);
    const auto [activated, act_scale] = ops.act_mul(sum, "silu", true);
    const LinearInput rows = QuantizeRows(q.reshape({kTokens, -1}));
    return {q, k, v, centred, row_scale, activated, act_scale, rows.values, rows.scale};
  }
};

at::Tensor Bytes(const at::Tensor& x) { return x.contiguous().view(at::kByte); }

TEST(FusedGraph, ReplaysOnNewNumbersPositionsAndSlots) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  Chain chain;
  chain.Fill(1);
  std::vector<at::Tensor> captured;
  CapturedGraph graph([&] { captured = chain.Run(); });
  for (const uint64_t seed : {2U, 3U}) {
    chain.Fill(seed);
    const std::vector<at::Tensor> expected = chain.Run();
    const at::Tensor keys = Bytes(chain.cache.keys(0)).clone(), values = Bytes(chain.cache.values(0)).clone();
    chain.Fill(seed);
    graph.Replay();
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(at::equal(Bytes(captured[i]), Bytes(expected[i]))) << "result " << i;
    }
    EXPECT_TRUE(at::equal(Bytes(chain.cache.keys(0)), keys));
    EXPECT_TRUE(at::equal(Bytes(chain.cache.values(0)), values));
  }
}

#endif

}  // namespace
}  // namespace automodeld
