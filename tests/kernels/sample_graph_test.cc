// Sampling inside a CUDA graph, and how long it takes there.
#include <gtest/gtest.h>

#include "kernels/registry.h"
#include "tests/kernels/devices.h"

#if __has_include(<cuda_runtime.h>)
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <vector>

namespace automodeld {
namespace {

struct Step {
  at::Tensor logits, temperature, top_k, top_p, min_p, seeds, positions;

  at::Tensor Draw(const Ops& ops) const {
    return ops.sample(logits, temperature, top_k, top_p, min_p, seeds, positions);
  }
};

// Every row asks for something else.
Step MakeStep(int64_t rows, int64_t vocab, uint64_t seed) {
  const at::Generator generator = at::detail::createCPUGenerator(seed);
  const auto uniform = [&] { return at::rand({rows}, generator); };
  const auto sometimes = [&](const at::Tensor& value, const at::Tensor& else_value) {
    return at::where(uniform() < 0.5, value, else_value).to(at::kCUDA);
  };
  Step step;
  step.logits = (at::randn({rows, vocab}, generator) * 3).to(at::kBFloat16).to(at::kCUDA);
  step.temperature = sometimes(uniform() * 2, at::zeros({rows}));
  step.top_k = sometimes(at::randint(1, 2 * vocab, {rows}, generator, at::kLong), at::zeros({rows}, at::kLong));
  step.top_p = sometimes(uniform(), at::ones({rows}));
  step.min_p = sometimes(uniform() * 0.1, at::zeros({rows}));
  step.seeds = at::randint(1 << 30, {rows}, generator, at::kLong).to(at::kCUDA);
  step.positions = at::randint(1 << 20, {rows}, generator, at::kLong).to(at::kCUDA);
  return step;
}

void CopyInto(Step& to, const Step& from) {
  to.logits.copy_(from.logits);
  to.temperature.copy_(from.temperature);
  to.top_k.copy_(from.top_k);
  to.top_p.copy_(from.top_p);
  to.min_p.copy_(from.min_p);
  to.seeds.copy_(from.seeds);
  to.positions.copy_(from.positions);
}

class SampleGraphOfRows : public testing::TestWithParam<int64_t> {};

TEST_P(SampleGraphOfRows, ReplaysDrawWithOtherLogitsAndParameters) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  const Ops ops = FindFusedOps(EagerOps(), OpNames(), at::kCUDA, at::kBFloat16).ops;
  Step captured = MakeStep(GetParam(), 32000, 1);
  at::cuda::CUDAGraph graph;
  at::Tensor tokens;
  {
    const c10::cuda::CUDAStreamGuard stream(c10::cuda::getStreamFromPool());
    captured.Draw(ops);  // what is set up once is
    graph.capture_begin();
    tokens = captured.Draw(ops);
    graph.capture_end();
  }
  for (uint64_t seed = 2; seed < 6; ++seed) {
    const Step other = MakeStep(GetParam(), 32000, seed);
    CopyInto(captured, other);
    graph.replay();
    EXPECT_TRUE(at::equal(tokens, other.Draw(EagerOps()))) << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Of, SampleGraphOfRows, testing::Values(1, 5, 64, 200), testing::PrintToStringParamName());

// Microseconds a call within a graph of many.
double Measure(const std::function<void()>& call) {
  constexpr int kCalls = 20, kReplays = 10;
  c10::cuda::device_synchronize();  // the arguments were made on another stream
  const c10::cuda::CUDAStreamGuard stream(c10::cuda::getStreamFromPool());
  call();
  at::cuda::CUDAGraph graph;
  graph.capture_begin();
  for (int i = 0; i < kCalls; ++i) call();
  graph.capture_end();
  graph.replay();
  double best = 1e9;
  for (int i = 0; i < kReplays; ++i) {
    at::cuda::CUDAEvent start(cudaEventDefault), end(cudaEventDefault);
    start.record();
    graph.replay();
    end.record();
    end.synchronize();
    best = std::min(best, 1000.0 * static_cast<double>(start.elapsed_time(end)) / kCalls);
  }
  return best;
}

struct Setting {
  const char* name;
  double temperature, top_p, min_p;
  int64_t top_k;
  double spread;  // of the logits
};

TEST(SampleBench, DISABLED_Microseconds) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  const std::vector<Setting> settings = {{"greedy", 0, 1, 0, 0, 3},
                                         {"plain", 1, 1, 0, 0, 3},
                                         {"plain, flat", 1, 1, 0, 0, 0.5},
                                         {"top_p 0.9, peaked", 1, 0.9, 0, 0, 5},
                                         {"top_p 0.9, flat", 1, 0.9, 0, 0, 0.5},
                                         {"top_k 50", 1, 1, 0, 50, 3},
                                         {"top_k 20, top_p 0.95", 0.6, 0.95, 0, 20, 3},
                                         {"top_k 5000, top_p 0.9", 1, 0.9, 0, 5000, 1},
                                         {"min_p 0.05", 1, 1, 0.05, 0, 3}};
  constexpr int64_t kVocab = 128256;
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    const Ops ops = FindFusedOps(EagerOps(), OpNames(), at::kCUDA, dtype).ops;
    for (const Setting& s : settings) {
      std::printf("%-9s %-24s", c10::toString(dtype), s.name);
      for (const int64_t rows : {1, 8, 16, 64, 256}) {
        const at::TensorOptions options(at::kCUDA);
        Step step;
        step.logits = (at::randn({rows, kVocab}, options) * s.spread).to(dtype);
        step.temperature = at::full({rows}, s.temperature, options);
        step.top_p = at::full({rows}, s.top_p, options);
        step.min_p = at::full({rows}, s.min_p, options);
        step.top_k = at::full({rows}, s.top_k, options.dtype(at::kLong));
        step.seeds = at::arange(rows, options.dtype(at::kLong));
        step.positions = at::arange(rows, options.dtype(at::kLong));
        std::printf("  %3lld: %7.1f", static_cast<long long>(rows), Measure([&] { step.Draw(ops); }));
      }
      std::printf("\n");
    }
  }
}

TEST(SampleBench, DISABLED_MicrosecondsOfAdjusting) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  constexpr int64_t kVocab = 128256;
  const Ops ops = FindFusedOps(EagerOps(), OpNames(), at::kCUDA, at::kBFloat16).ops;
  for (const int64_t rows : {1, 8, 64, 256}) {
    const at::TensorOptions options(at::kCUDA), longs = options.dtype(at::kLong);
    const at::Tensor logits = at::randn({rows, kVocab}, options).to(at::kBFloat16);
    const at::Tensor counts = at::zeros({rows, kVocab}, options.dtype(at::kInt)), count_rows = at::arange(rows, longs);
    const at::Tensor penalties = at::ones({3, rows}, options), offsets = at::arange(rows + 1, longs) * 4;
    const at::Tensor ids = at::arange(4 * rows, longs), values = at::ones({4 * rows}, options);
    const double adjust =
        Measure([&] { ops.adjust_logits(logits, counts, count_rows, penalties, offsets, ids, values); });
    const double count = Measure([&] { ops.count_tokens(counts, count_rows, count_rows); });
    std::printf("%3lld rows: adjust_logits %.1f, count_tokens %.1f\n", static_cast<long long>(rows), adjust, count);
  }
}

}  // namespace
}  // namespace automodeld
#endif
