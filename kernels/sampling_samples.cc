// Samples of the operations between the logits and the token. Arguments are made on the CPU and moved: a GPU would have
// to load a kernel for every operation here.
#include <fmt/format.h>

#include "kernels/logit_adjustment.h"
#include "kernels/op_samples.h"

namespace automodeld {
namespace {

struct SamplingCase {
  std::string name;
  double temperature, top_p, min_p;
  int64_t top_k;
};

const std::vector<SamplingCase> kSamplings = {{"greedy", 0.0, 1.0, 0.0, 0},
                                              {"plain", 1.0, 1.0, 0.0, 0},
                                              {"cold", 0.1, 1.0, 0.0, 0},
                                              {"hot", 20.0, 1.0, 0.0, 0},
                                              {"nearly greedy, top_k", 1e-37, 1.0, 0.0, 40},
                                              {"nearly greedy, top_k 1", 1e-37, 1.0, 0.0, 1},
                                              {"nearly greedy, top_p", 1e-37, 0.9, 0.0, 0},
                                              {"top_k 1", 1.0, 1.0, 0.0, 1},
                                              {"top_k 40", 0.8, 1.0, 0.0, 40},
                                              {"top_k above the vocabulary", 1.0, 1.0, 0.0, 1 << 30},
                                              {"top_p", 1.0, 0.9, 0.0, 0},
                                              {"top_p 0", 1.0, 0.0, 0.0, 0},
                                              {"top_p hot", 20.0, 0.5, 0.0, 0},
                                              {"min_p", 1.0, 1.0, 0.1, 0},
                                              {"all filters", 0.7, 0.95, 0.05, 50}};

// Logits from a grid have ties, as 16-bit ones do.
Sample SamplingSample(const SamplingCase& c, int64_t rows, int64_t vocab, bool ties) {
  const auto run = [c, rows, vocab, ties](const Ops& ops, SampleTensors& make) -> SampleResult {
    at::Tensor logits = make.Normal({rows, vocab}, 3.0);
    if (ties) logits = logits.cpu().mul(2).round().div(2).to(logits.device());
    const auto fill = [&](double value) { return at::full({rows}, value, at::kFloat).to(logits.device()); };
    const at::Tensor top_k = at::full({rows}, c.top_k, at::kLong).to(logits.device());
    const at::Tensor seeds = make.Integers({rows}, int64_t{1} << 62), positions = make.Integers({rows}, 1000);
    return {ops.sample(logits, fill(c.temperature), top_k, fill(c.top_p), fill(c.min_p), seeds, positions)};
  };
  return {fmt::format("{} {} x {}{}", c.name, rows, vocab, ties ? ", ties" : ""), rows * vocab, run};
}

struct AdjustCase {
  int64_t rows, vocab, capacity, entries_per_row;
};

const std::vector<AdjustCase> kAdjustments = {{1, 64, 1, 3},   {0, 64, 2, 0},     {4, 5000, 0, 7}, {5, 2048, 8, 0},
                                              {7, 3001, 9, 5}, {16, 999, 16, 31}, {3, 1, 4, 1}};

// Rows 1, 3, 5, ... of the counts belong to rows 0, 2, 4, ...; the others have none.
at::Tensor CountRows(const AdjustCase& c, at::Device device) {
  const at::Tensor row = at::arange(c.rows, at::kLong);
  const at::Tensor counted = row.remainder(2).eq(0).logical_and(row.lt(c.capacity));
  const at::Tensor other = row.bitwise_xor(1).clamp_max(std::max<int64_t>(c.capacity - 1, 0));
  return at::where(counted, other, at::full_like(row, -1)).to(device);
}

// Most tokens came neither in the prompt nor in the completion.
at::Tensor Counts(const AdjustCase& c, SampleTensors& make) {
  const at::Tensor drawn = make.Integers({c.capacity, c.vocab}, 6), in_prompt = make.Integers({c.capacity, c.vocab}, 4);
  const at::Tensor times = drawn.cpu().sub(2).clamp_min(0);
  return times.add(in_prompt.cpu().eq(0).mul(int64_t{kInPrompt})).to(at::kInt).to(drawn.device());
}

Sample AdjustSample(const AdjustCase& c) {
  const auto run = [c](const Ops& ops, SampleTensors& make) -> SampleResult {
    const at::Tensor logits = make.Normal({c.rows, c.vocab}, 3.0);
    const int64_t entries = c.rows * c.entries_per_row;
    const at::Device device = logits.device();
    const at::Tensor offsets = at::arange(c.rows + 1, at::kLong) * c.entries_per_row;
    const at::Tensor values = make.Float({entries}).cpu() * 8 - 4;
    const at::Tensor masked = at::where(values > 3, at::full_like(values, -INFINITY), values);
    const at::Tensor penalties = make.Float({3, c.rows}).cpu() + 0.5;
    return {ops.adjust_logits(logits, Counts(c, make), CountRows(c, device), penalties.to(device), offsets.to(device),
                              make.Integers({entries}, c.vocab), masked.to(device))};
  };
  const auto name =
      fmt::format("{} x {}, {} counted, {} entries a row", c.rows, c.vocab, c.capacity, c.entries_per_row);
  return {name, 2 * c.rows * c.vocab, run};
}

Sample CountSample(const AdjustCase& c) {
  const auto run = [c](const Ops& ops, SampleTensors& make) -> SampleResult {
    const at::Tensor counts = Counts(c, make);
    return {ops.count_tokens(counts, CountRows(c, counts.device()), make.Integers({c.rows}, c.vocab)), counts};
  };
  return {fmt::format("{} x {}, {} counted", c.rows, c.vocab, c.capacity), 2 * c.rows, run};
}

}  // namespace

std::vector<Sample> SampleSamples() {
  std::vector<Sample> samples;
  for (const SamplingCase& c : kSamplings) {
    samples.push_back(SamplingSample(c, 8, 4096, false));
    samples.push_back(SamplingSample(c, 16, 1000, true));
    samples.push_back(SamplingSample(c, 5, 7, false));
    samples.push_back(SamplingSample(c, 3, 1, false));
    samples.push_back(SamplingSample(c, 0, 100, false));
  }
  samples.push_back(SamplingSample(kSamplings.back(), 1, 151936, false));
  samples.push_back(SamplingSample(kSamplings.back(), 1, 262144, true));
  return samples;
}

std::vector<Sample> AdjustLogitsSamples() {
  std::vector<Sample> samples;
  samples.reserve(std::size(kAdjustments));
  for (const AdjustCase& c : kAdjustments) samples.push_back(AdjustSample(c));
  return samples;
}

std::vector<Sample> CountTokensSamples() {
  std::vector<Sample> samples;
  samples.reserve(std::size(kAdjustments));
  for (const AdjustCase& c : kAdjustments) samples.push_back(CountSample(c));
  return samples;
}

std::vector<Sample> ModelSamplingSamples(const std::string& op, int64_t vocab) {
  const AdjustCase adjustment = {.rows = 2, .vocab = vocab, .capacity = 2, .entries_per_row = 4};
  if (op == "adjust_logits") return {AdjustSample(adjustment)};
  if (op == "count_tokens") return {CountSample(adjustment)};
  TORCH_CHECK(op == "sample", "no samples of ", op);
  return {SamplingSample(kSamplings.front(), 1, vocab, false), SamplingSample(kSamplings.back(), 1, vocab, false)};
}

}  // namespace automodeld
