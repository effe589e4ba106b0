// How fast flash_attention_2 is on a GPU: disabled as a test, because it only prints.
//
//   kernels_test --gtest_also_run_disabled_tests --gtest_filter='*AttentionBench*'
//
// Each case is a graph of 32 layers; a layer's time is the graph's by 32, and its bytes are the keys and values that
// the rows see, once per sequence and key head. RopeAndDecode compares qkv_rope_write_kv and attention after it with
// attention over raw rows.
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>

#include "kernels/attention.h"
#include "kernels/device_graph.h"
#include "kernels/ops.h"
#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

constexpr int64_t kLayers = 32, kRepeats = 5;

struct BenchCase {
  std::string name;
  int64_t sequences = 1, rows = 1, context = 1;
  bool ragged = false;
  int64_t heads = 32, kv_heads = 8, head_dim = 128;
  at::ScalarType kv_dtype = at::kBFloat16;
  bool quantize = false;
  bool norm = false;  // of q and k, where rows are raw
};

const std::vector<BenchCase> kCases = {
    {.name = "decode, 1 x 32768", .context = 32768},
    {.name = "decode, 1 x 32768, e4m3", .context = 32768, .kv_dtype = at::kFloat8_e4m3fn},
    {.name = "decode, 1 x 200", .context = 200},
    {.name = "decode, 1 x 200, quantised", .context = 200, .quantize = true},
    {.name = "decode, 1 x 2000", .context = 2000},
    {.name = "decode, 1 x 2000, quantised", .context = 2000, .quantize = true},
    {.name = "decode, 4 x 1000", .sequences = 4, .context = 1000},
    {.name = "decode, 8 x 1000", .sequences = 8, .context = 1000},
    {.name = "decode, 8 x 1000, quantised", .sequences = 8, .context = 1000, .quantize = true},
    {.name = "decode, 16 x 1000", .sequences = 16, .context = 1000},
    {.name = "decode, 16 x 1000, quantised", .sequences = 16, .context = 1000, .quantize = true},
    {.name = "decode, 24 x 1000", .sequences = 24, .context = 1000},
    {.name = "decode, 64 x 1000", .sequences = 64, .context = 1000},
    {.name = "decode, 64 x 1000, e4m3", .sequences = 64, .context = 1000, .kv_dtype = at::kFloat8_e4m3fn},
    {.name = "decode, 64 x 1500, e4m3", .sequences = 64, .context = 1500, .kv_dtype = at::kFloat8_e4m3fn},
    {.name = "decode, 64 x 200", .sequences = 64, .context = 200},
    {.name = "decode, 64 x 200, e4m3", .sequences = 64, .context = 200, .kv_dtype = at::kFloat8_e4m3fn},
    {.name = "decode, 256 x 1000", .sequences = 256, .context = 1000},
    {.name = "decode, 64 x 1000, heads 14/2 of 64",
     .sequences = 64,
     .context = 1000,
     .heads = 14,
     .kv_heads = 2,
     .head_dim = 64},
    {.name = "prompt of 128", .rows = 128, .context = 128},
    {.name = "prompt of 512", .rows = 512, .context = 512},
    {.name = "prompt of 2048", .rows = 2048, .context = 2048},
    {.name = "prompt of 2048, e4m3", .rows = 2048, .context = 2048, .kv_dtype = at::kFloat8_e4m3fn},
    {.name = "prompt of 8192", .rows = 8192, .context = 8192},
    {.name = "64 prompts of 128", .sequences = 64, .rows = 128, .context = 128},
    {.name = "prompt of 2048, heads of 64", .rows = 2048, .context = 2048, .head_dim = 64},
    {.name = "prompt of 2048, heads of 256", .rows = 2048, .context = 2048, .heads = 16, .head_dim = 256},
    {.name = "512 rows of 8192", .rows = 512, .context = 8192},
    {.name = "20 rows of 8192", .rows = 20, .context = 8192},
    {.name = "800 texts of 20, 12 heads of 32",
     .sequences = 800,
     .rows = 20,
     .context = 20,
     .ragged = true,
     .heads = 12,
     .kv_heads = 12,
     .head_dim = 32},
    {.name = "32 texts of 512, 12 heads of 64",
     .sequences = 32,
     .rows = 512,
     .context = 512,
     .ragged = true,
     .heads = 12,
     .kv_heads = 12,
     .head_dim = 64},
};

const std::vector<BenchCase> kRopeCases = {
    {.name = "1 x 200", .context = 200},
    {.name = "1 x 200, quantised", .context = 200, .quantize = true},
    {.name = "1 x 2000", .context = 2000},
    {.name = "1 x 32768", .context = 32768},
    {.name = "1 x 200, heads 16/8, norm", .context = 200, .heads = 16, .norm = true},
    {.name = "8 x 1000", .sequences = 8, .context = 1000},
    {.name = "16 x 1000", .sequences = 16, .context = 1000},
    {.name = "32 x 200", .sequences = 32, .context = 200},
    {.name = "32 x 200, e4m3", .sequences = 32, .context = 200, .kv_dtype = at::kFloat8_e4m3fn},
    {.name = "32 x 1000", .sequences = 32, .context = 1000},
    {.name = "32 x 1000, e4m3", .sequences = 32, .context = 1000, .kv_dtype = at::kFloat8_e4m3fn},
    {.name = "64 x 1000, heads 28/4", .sequences = 64, .context = 1000, .heads = 28, .kv_heads = 4},
    {.name = "64 x 1000, heads 14/2 of 64",
     .sequences = 64,
     .context = 1000,
     .heads = 14,
     .kv_heads = 2,
     .head_dim = 64},
};

// The tensors and pages of a case, and its step.
struct BenchStep {
  BenchStep(const BenchCase& c, at::Device device) : bench(c) {
    const at::TensorOptions options = at::TensorOptions(at::kBFloat16).device(device);
    const int64_t pages = (c.context + 15) / 16, tokens = c.sequences * c.rows;
    q = at::randn({tokens, c.heads, c.head_dim}, options);
    k = at::randn({c.ragged ? tokens : 1, c.kv_heads, c.head_dim}, options);
    v = at::randn_like(k);
    const at::Tensor order = at::randperm(pages * c.sequences, at::kInt);
    ids.assign(order.const_data_ptr<int32_t>(), order.const_data_ptr<int32_t>() + order.numel());
    for (int64_t i = 0; i < c.sequences; ++i) {
      const SequenceRows rows{.first_row = i * c.rows, .num_rows = c.rows, .context = c.context, .pages = {}};
      (c.ragged ? step.ragged : step.paged).push_back(rows);
      if (!c.ragged)
        step.paged.back().pages = std::span(ids).subspan(static_cast<size_t>(i * pages), static_cast<size_t>(pages));
    }
    step.num_decode = c.rows == 1 ? c.sequences : 0;
    if (c.ragged) return;
    kv = std::make_unique<KvCache>(pages * c.sequences, kLayers, 16, c.kv_heads, c.head_dim, options.dtype(c.kv_dtype));
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      for (const at::Tensor& slots : {kv->keys(layer), kv->values(layer)}) {
        slots.copy_(at::randn(slots.sizes(), options).to(c.kv_dtype));
      }
    }
  }

  AttentionLayer Layer(int64_t index) const {
    return {.index = index,
            .num_heads = bench.heads,
            .num_kv_heads = bench.kv_heads,
            .head_dim = bench.head_dim,
            .scale = 0.1,
            .causal = !bench.ragged,
            .quantize = bench.quantize};
  }

  void Run(AttentionBackend& backend) const {
    for (int64_t i = 0; i < kLayers; ++i) backend.Run(Layer(i), q, k, v, kv.get());
  }

  double bytes() const {
    return 2.0 * static_cast<double>(bench.sequences * bench.context * bench.kv_heads * bench.head_dim) *
           static_cast<double>(c10::elementSize(bench.kv_dtype));
  }
  // Of the products that the mask leaves.
  double operations() const {
    const double rows = static_cast<double>(bench.rows), before = static_cast<double>(bench.context) - rows;
    const double pairs = bench.ragged ? rows * rows : rows * before + rows * (rows + 1) / 2;
    return 4.0 * static_cast<double>(bench.sequences * bench.heads * bench.head_dim) * pairs;
  }

  BenchCase bench;
  at::Tensor q, k, v;
  std::vector<int32_t> ids;
  std::unique_ptr<KvCache> kv;
  AttentionStep step;
};

// Decode rows of a case as the linear layer gives them, each sequence's newest token.
struct RawBenchStep : BenchStep {
  RawBenchStep(const BenchCase& c, at::Device device)
      : BenchStep(c, device), ops(FindFusedOps(EagerOps(), OpNames(), device, at::kBFloat16).ops) {
    const int64_t newest = c.context - 1;
    std::vector<int64_t> written;
    for (const SequenceRows& rows : step.paged) {
      written.push_back(rows.pages[static_cast<size_t>(newest / 16)] * int64_t{16} + newest % 16);
    }
    qkv = at::randn({c.sequences, (c.heads + 2 * c.kv_heads) * c.head_dim}, q.options());
    slots = at::tensor(written, at::kLong).to(device);
    positions = at::full_like(slots, newest);
    cos_sin = at::randn({c.context, 2, c.head_dim / 2}, q.options().dtype(at::kFloat));
    if (c.norm) norm = at::randn({c.head_dim}, q.options());
  }

  void RunTwo(AttentionBackend& backend) const {
    for (int64_t i = 0; i < kLayers; ++i) {
      const auto [roped_q, roped_k, raw_v] =
          ops.qkv_rope_write_kv(qkv, bench.heads, bench.kv_heads, norm, norm, 1e-6, cos_sin, positions, kv->keys(i),
                                kv->values(i), slots, 1.0, 1.0);
      backend.Run(Layer(i), roped_q, roped_k, raw_v, kv.get());
    }
  }

  void RunOne(AttentionBackend& backend) const {
    const RawQkv raw{.version = ops.qkv_rope_write_kv.version,
                     .qkv = qkv,
                     .q_norm = norm,
                     .k_norm = norm,
                     .eps = 1e-6,
                     .cos_sin = cos_sin,
                     .positions = positions,
                     .slots = slots};
    for (int64_t i = 0; i < kLayers; ++i) TORCH_CHECK(backend.RunRaw(Layer(i), raw, *kv).has_value());
  }

  Ops ops;
  at::Tensor qkv, positions, slots, cos_sin;
  std::optional<at::Tensor> norm;
};

void Measure(const std::string& name, const BenchStep& bench, at::Device device,
             const std::function<void(AttentionBackend&)>& run) {
  const BenchCase& c = bench.bench;
  const AttentionNeeds needs{.num_heads = c.heads,
                             .num_kv_heads = c.kv_heads,
                             .head_dim = c.head_dim,
                             .dtype = at::kBFloat16,
                             .device = device,
                             .causal = !c.ragged};
  const auto backend = std::move(*MakeAttention("flash_attention_2", needs, {}));
  backend->Reserve({.max_sequences = 1024, .max_pages = 2048, .max_tokens = 1 << 15});
  const auto begin = std::chrono::steady_clock::now();
  backend->Plan(bench.step);
  const std::chrono::duration<double, std::micro> plan = std::chrono::steady_clock::now() - begin;
  run(*backend);
  const auto graphs = MakeDeviceGraphs(device);
  const auto graph = graphs->Record([&] { run(*backend); });
  const c10::impl::VirtualGuardImpl guard(device.type());
  double best = 1e9;
  for (int64_t i = 0; i < kRepeats; ++i) {
    c10::Event start(device.type(), c10::EventFlag::BACKEND_DEFAULT),
        end(device.type(), c10::EventFlag::BACKEND_DEFAULT);
    start.record(guard.getStream(device));
    graph->Launch();
    end.record(guard.getStream(device));
    end.synchronize();
    best = std::min(best, start.elapsedTime(end) * 1e-3 / kLayers);
  }
  fmt::print("{:40} {:8.2f} us a layer {:7.0f} GB/s {:6.1f} TFLOP/s, planned in {:.0f} us\n", name, best * 1e6,
             bench.bytes() / best * 1e-9, bench.operations() / best * 1e-12, plan.count());
}

class AttentionBench : public GpuTest {
 protected:
  // measure(case, GPU) for each, on a stream that can be recorded.
  template <typename MeasureCase>
  static void ForEach(const std::vector<BenchCase>& cases, MeasureCase measure) {
    const at::Device device = Best();
    const c10::impl::VirtualGuardImpl guard(device.type());
    const c10::StreamGuard on_stream(guard.getStreamFromGlobalPool(device, false));
    for (const BenchCase& c : cases) measure(c, device);
  }
};

TEST_F(AttentionBench, DISABLED_FlashAttention) {
  ForEach(kCases, [](const BenchCase& c, at::Device device) {
    const BenchStep bench(c, device);
    Measure(c.name, bench, device, [&](AttentionBackend& backend) { bench.Run(backend); });
  });
}

TEST_F(AttentionBench, DISABLED_RopeAndDecode) {
  ForEach(kRopeCases, [](const BenchCase& c, at::Device device) {
    const RawBenchStep bench(c, device);
    Measure("rope and decode, " + c.name, bench, device, [&](AttentionBackend& backend) { bench.RunTwo(backend); });
    Measure("both in one, " + c.name, bench, device, [&](AttentionBackend& backend) { bench.RunOne(backend); });
  });
}

}  // namespace
}  // namespace automodeld
