// What a draw promises, for the eager version and for every fused one.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "kernels/registry.h"
#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

struct Sampling {
  double temperature = 1.0, top_p = 1.0, min_p = 0.0;
  int64_t top_k = 0;
};

struct SampleVersion {
  std::string name;
  Ops ops;
  at::Device device;
};

std::vector<SampleVersion> Versions() {
  std::vector<SampleVersion> versions;
  for (const at::Device device : Devices()) versions.push_back({"eager on " + device.str(), EagerOps(), device});
  for (const Kernel& kernel : RegisteredKernels()) {
    if (kernel.op != "sample" || !Runs(kernel)) continue;
    versions.push_back({"fused for " + VersionName(kernel.device), EagerOps(), at::Device(kernel.device)});
    kernel.install(versions.back().ops);
  }
  return versions;
}

// One draw per row, all with the same settings; seeds and positions are [rows].
at::Tensor Draw(const SampleVersion& version, const at::Tensor& logits, const Sampling& s, const at::Tensor& seeds,
                const at::Tensor& positions) {
  const int64_t rows = logits.size(0);
  const auto fill = [&](double value) { return at::full({rows}, value, at::kFloat).to(version.device); };
  const at::Tensor top_k = at::full({rows}, s.top_k, at::kLong).to(version.device);
  return version.ops
      .sample(logits.to(version.device), fill(s.temperature), top_k, fill(s.top_p), fill(s.min_p),
              seeds.to(version.device), positions.to(version.device))
      .to(at::kCPU);
}

// How often each token comes in `draws` draws from one row of logits, seed 5, positions 0, 1, 2, ...
std::vector<int64_t> Histogram(const SampleVersion& version, const at::Tensor& row, const Sampling& s, int64_t draws) {
  const at::Tensor logits = row.unsqueeze(0).expand({draws, -1}).contiguous();
  const at::Tensor tokens =
      Draw(version, logits, s, at::full({draws}, int64_t{5}, at::kLong), at::arange(draws, at::kLong));
  const at::Tensor counts = tokens.bincount({}, row.size(0));
  return {counts.const_data_ptr<int64_t>(), counts.const_data_ptr<int64_t>() + counts.size(0)};
}

std::set<int64_t> Seen(const std::vector<int64_t>& counts) {
  std::set<int64_t> seen;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) seen.insert(static_cast<int64_t>(i));
  }
  return seen;
}

// Probabilities 0.4, 0.05, 0.25, 0.2, 0.1.
at::Tensor FiveTokens() { return at::tensor({0.4, 0.05, 0.25, 0.2, 0.1}, at::kFloat).log() + 3.0; }

TEST(Sample, FrequenciesFollowTheSoftmax) {
  constexpr int64_t kDraws = 100000;
  const at::Tensor logits = at::randn({20}, at::detail::createCPUGenerator(3)) * 1.5;
  for (const double temperature : {0.5, 1.0, 3.0}) {
    const at::Tensor expected = (logits / temperature).softmax(-1).to(at::kDouble) * kDraws;
    for (const SampleVersion& version : Versions()) {
      const std::vector<int64_t> counts = Histogram(version, logits, {.temperature = temperature}, kDraws);
      double chi_square = 0.0;
      for (size_t i = 0; i < counts.size(); ++i) {
        const double mean = expected[static_cast<int64_t>(i)].item<double>();
        chi_square += (static_cast<double>(counts[i]) - mean) * (static_cast<double>(counts[i]) - mean) / mean;
      }
      EXPECT_LT(chi_square, 43.8) << version.name;  // 19 degrees of freedom: exceeded by chance once in 1000
      EXPECT_GT(chi_square, 5.4) << version.name;   // nor suspiciously even: once in 1000
    }
  }
}

TEST(Sample, FrequenciesFollowWhatTheFiltersKeep) {
  constexpr int64_t kDraws = 100000;
  const at::Tensor logits = at::randn({60}, at::detail::createCPUGenerator(8)) * 1.5;
  const Sampling sampling = {.temperature = 0.8, .top_p = 0.97, .min_p = 0.01, .top_k = 40};
  const auto [sorted, ids] = (logits / sampling.temperature).softmax(-1).sort(-1, /*descending=*/true);
  at::Tensor kept = sorted.narrow(0, 0, sampling.top_k) / sorted.narrow(0, 0, sampling.top_k).sum();
  kept = kept * (kept.cumsum(0) - kept).lt(sampling.top_p) * sorted.narrow(0, 0, sampling.top_k).ge(sorted[0] * 0.01);
  const at::Tensor expected = (kept / kept.sum()).to(at::kDouble) * kDraws;
  const int64_t num_kept = kept.count_nonzero().item<int64_t>();
  ASSERT_GT(num_kept, 15);
  for (const SampleVersion& version : Versions()) {
    const std::vector<int64_t> counts = Histogram(version, logits, sampling, kDraws);
    double chi_square = 0.0;
    int64_t drawn = 0;
    for (int64_t i = 0; i < num_kept; ++i) {
      const int64_t count = counts[static_cast<size_t>(ids[i].item<int64_t>())];
      const double mean = expected[i].item<double>();
      chi_square += (static_cast<double>(count) - mean) * (static_cast<double>(count) - mean) / mean;
      drawn += count;
    }
    EXPECT_EQ(drawn, kDraws) << version.name << ": a token came that is not kept";
    const auto freedom = static_cast<double>(num_kept - 1);
    EXPECT_LT(chi_square, freedom + 4 * std::sqrt(2 * freedom)) << version.name;  // by chance once in 1000 or less
  }
}

TEST(Sample, FiltersKeepExactlyTheirTokens) {
  const std::vector<std::pair<Sampling, std::set<int64_t>>> cases = {
      {{}, {0, 1, 2, 3, 4}},
      {{.top_k = 1}, {0}},
      {{.top_k = 3}, {0, 2, 3}},
      {{.top_k = 5}, {0, 1, 2, 3, 4}},
      {{.top_k = 99}, {0, 1, 2, 3, 4}},
      {{.top_p = 0.0}, {0}},
      {{.top_p = 0.39}, {0}},
      {{.top_p = 0.41}, {0, 2}},
      {{.top_p = 0.84}, {0, 2, 3}},
      {{.top_p = 0.86}, {0, 2, 3, 4}},
      {{.top_p = 0.96}, {0, 1, 2, 3, 4}},
      {{.min_p = 0.51}, {0, 2}},
      {{.min_p = 0.49}, {0, 2, 3}},
      {{.min_p = 1.0}, {0}},
      // Of the first two, 0.4 / 0.65 = 0.62 is in the first.
      {{.top_p = 0.6, .top_k = 2}, {0}},
      {{.top_p = 0.63, .top_k = 2}, {0, 2}},
      // At temperature 2 weights are square roots: 0.32, 0.11, 0.25, 0.22, 0.16 of their sum.
      {{.temperature = 2.0, .top_p = 0.5}, {0, 2}},
      {{.temperature = 2.0, .min_p = 0.49}, {0, 2, 3, 4}},
  };
  for (const SampleVersion& version : Versions()) {
    for (const auto& [sampling, expected] : cases) {
      EXPECT_EQ(Seen(Histogram(version, FiveTokens(), sampling, 2000)), expected)
          << version.name << ": temperature " << sampling.temperature << ", top_p " << sampling.top_p << ", top_k "
          << sampling.top_k << ", min_p " << sampling.min_p;
    }
  }
}

TEST(Sample, OfEqualLogitsTheFirstAreKept) {
  const at::Tensor logits = at::tensor({1.0, 2.0, 2.0, 2.0, 2.0}, at::kFloat);
  for (const SampleVersion& version : Versions()) {
    EXPECT_EQ(Seen(Histogram(version, logits, {.top_k = 2}, 200)), (std::set<int64_t>{1, 2})) << version.name;
    EXPECT_EQ(Seen(Histogram(version, logits, {.temperature = 0.0}, 20)), (std::set<int64_t>{1})) << version.name;
    EXPECT_EQ(Seen(Histogram(version, at::zeros({4}), {.top_p = 0.5}, 200)), (std::set<int64_t>{0, 1})) << version.name;
  }
}

TEST(Sample, ADrawDependsOnItsRowOnly) {
  const at::Tensor logits = at::randn({9, 300}, at::detail::createCPUGenerator(4)) * 2;
  const at::Tensor seeds = at::arange(9, at::kLong) * 7919, positions = at::arange(9, at::kLong) + 11;
  for (const SampleVersion& version : Versions()) {
    const at::Tensor together = Draw(version, logits, {.top_p = 0.95, .top_k = 50}, seeds, positions);
    for (int64_t i = 0; i < 9; ++i) {
      const auto one = [i](const at::Tensor& x) { return x.narrow(0, i, 1); };
      const at::Tensor alone = Draw(version, one(logits), {.top_p = 0.95, .top_k = 50}, one(seeds), one(positions));
      EXPECT_EQ(alone.item<int64_t>(), together[i].item<int64_t>()) << version.name;
    }
  }
}

TEST(Sample, SeedAndPositionBothChangeTheDraw) {
  const at::Tensor logits = at::zeros({1, 1000});
  const auto draw = [&](const SampleVersion& version, int64_t seed, int64_t position) {
    return Draw(version, logits, {}, at::full({1}, seed, at::kLong), at::full({1}, position, at::kLong))
        .item<int64_t>();
  };
  for (const SampleVersion& version : Versions()) {
    std::set<int64_t> by_seed, by_position;
    for (int64_t i = 0; i < 30; ++i) {
      by_seed.insert(draw(version, i, 3));
      by_seed.insert(draw(version, i << 40, 3));  // the upper half of a seed counts too
      by_position.insert(draw(version, -1, i));
    }
    EXPECT_GT(by_seed.size(), 45) << version.name;
    EXPECT_GT(by_position.size(), 20) << version.name;
  }
}

TEST(Sample, VersionsAgreeOnEveryDraw) {
  constexpr int64_t kRows = 400, kVocab = 997;
  const at::Generator generator = at::detail::createCPUGenerator(6);
  const at::Tensor logits = at::randn({kRows, kVocab}, generator) * 4;
  const at::Tensor seeds = at::randint(std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(),
                                       {kRows}, generator, at::kLong);
  const at::Tensor positions = at::randint(0, 4096, {kRows}, generator, at::kLong);
  const std::vector<SampleVersion> versions = Versions();
  for (const Sampling& s : {Sampling{}, Sampling{.temperature = 0.3}, Sampling{.top_p = 0.9}, Sampling{.top_k = 20},
                            Sampling{.temperature = 1.7, .top_p = 0.8, .min_p = 0.01, .top_k = 300}}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      const at::Tensor expected = Draw(versions[0], logits.to(dtype), s, seeds, positions);
      for (const SampleVersion& version : versions) {
        EXPECT_TRUE(at::equal(Draw(version, logits.to(dtype), s, seeds, positions), expected)) << version.name;
      }
    }
  }
}

// Rows of one vocabulary that ask for everything at once: logits flat, peaked, tied, masked, with one finite or a NaN.
struct MixedRows {
  at::Tensor logits, temperature, top_k, top_p, min_p, seeds, positions;

  at::Tensor Draw(const SampleVersion& version) const {
    const auto on = [&](const at::Tensor& x) { return x.to(version.device); };
    return version.ops.sample(on(logits), on(temperature), on(top_k), on(top_p), on(min_p), on(seeds), on(positions))
        .to(at::kCPU);
  }
};

MixedRows MakeMixedRows(int64_t rows, int64_t vocab, at::ScalarType dtype) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const at::Generator generator = at::detail::createCPUGenerator(9);
  const auto one_of = [&](const std::vector<double>& values) {
    const at::Tensor which = at::randint(static_cast<int64_t>(values.size()), {rows}, generator, at::kLong);
    return at::tensor(values, at::kDouble).index_select(0, which);
  };
  MixedRows mixed;
  mixed.logits = at::randn({rows, vocab}, generator) * one_of({0, 0.01, 0.5, 3, 8}).unsqueeze(-1);
  for (int64_t r = 0; r < rows; ++r) {
    at::Tensor row = mixed.logits[r];
    if (r % 7 == 1) row.copy_(row.mul(2).round().div(2));
    if (r % 7 == 2) row.masked_fill_(at::rand({vocab}, generator).lt(0.9), -kInfinity);
    if (r % 7 == 3) row.narrow(0, 0, vocab - 1).fill_(-kInfinity);
    if (r % 14 == 4) row.narrow(0, vocab / 2, 1).fill_(std::numeric_limits<float>::quiet_NaN());
  }
  mixed.logits = mixed.logits.to(dtype);
  mixed.temperature = one_of({0, 1e-37, 1e-3, 0.3, 1, 1, 1, 2, 100}).to(at::kFloat);
  const auto v = static_cast<double>(vocab);
  mixed.top_k = one_of({0, 0, 1, 2, 50, 300, v / 8, v - 1, v, 2 * v}).to(at::kLong);
  mixed.top_p = one_of({1, 1, 0, 0.1, 0.5, 0.9, 0.999999}).to(at::kFloat);
  mixed.min_p = one_of({0, 0, 1e-6, 0.05, 1}).to(at::kFloat);
  mixed.seeds = at::randint(int64_t{1} << 62, {rows}, generator, at::kLong);
  mixed.positions = at::randint(4096, {rows}, generator, at::kLong);
  return mixed;
}

using Vocabulary = std::pair<int64_t, int64_t>;  // so many tokens, and rows

class SampleOfVocabulary : public testing::TestWithParam<Vocabulary> {};

TEST_P(SampleOfVocabulary, VersionsAgreeOnMixedRows) {
  const auto [vocab, rows] = GetParam();
  const std::vector<SampleVersion> versions = Versions();
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const MixedRows mixed = MakeMixedRows(rows, vocab, dtype);
    const at::Tensor expected = mixed.Draw(versions[0]);
    for (const SampleVersion& version : versions) {
      const at::Tensor wrong = mixed.Draw(version).ne(expected).nonzero();
      EXPECT_EQ(wrong.numel(), 0) << version.name << ", " << dtype << ", rows " << wrong;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Of, SampleOfVocabulary,
                         testing::Values(Vocabulary(1, 20), Vocabulary(2, 40), Vocabulary(127, 100),
                                         Vocabulary(1000, 256), Vocabulary(4096, 70), Vocabulary(32003, 30),
                                         Vocabulary(151936, 14), Vocabulary(262144, 7)),
                         [](const auto& vocabulary) { return std::to_string(vocabulary.param.first); });

TEST(Sample, MaskedTokensNeverComeAndBadLogitsGiveAToken) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::pair<std::vector<float>, std::set<int64_t>>> cases = {
      {{-kInfinity, 1, -kInfinity, 1}, {1, 3}},
      {{-kInfinity, -kInfinity, -5, -kInfinity}, {2}},
      {{-kInfinity, -kInfinity, -kInfinity, -kInfinity}, {0}},
      {{0, kInfinity, 3, kInfinity}, {1}},
      {{0, 1, kNan, 2}, {2}},
      {{0, 1, -kNan, 2}, {2}}};
  for (const SampleVersion& version : Versions()) {
    for (const auto& [logits, expected] : cases) {
      for (const Sampling& s : {Sampling{}, Sampling{.top_p = 0.999, .top_k = 3}}) {
        EXPECT_EQ(Seen(Histogram(version, at::tensor(logits, at::kFloat), s, 100)), expected) << version.name;
      }
    }
  }
}

}  // namespace
}  // namespace automodeld
