// adjust_logits and count_tokens against loops over one token at a time.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "kernels/registry.h"
#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

constexpr int64_t kVocab = 2500;

struct Asked {
  std::vector<int64_t> prompt = {}, completion = {};
  float repetition = 1, frequency = 0, presence = 0;
  std::vector<std::pair<int64_t, float>> bias = {};
  bool counted = true;
};

// As transformers and vLLM have it: the bias, the penalties, then what may not come.
std::vector<float> Expected(std::vector<float> logits, const Asked& asked) {
  std::set<int64_t> masked;
  for (const auto& [id, value] : asked.bias) {
    if (std::isinf(value)) masked.insert(id);
    logits[static_cast<size_t>(id)] += value;
  }
  for (int64_t id = 0; asked.counted && id < kVocab; ++id) {
    float& logit = logits[static_cast<size_t>(id)];
    const auto times = std::count(asked.completion.begin(), asked.completion.end(), id);
    const bool in_prompt = std::count(asked.prompt.begin(), asked.prompt.end(), id) > 0;
    if (in_prompt || times > 0) logit = logit > 0 ? logit / asked.repetition : logit * asked.repetition;
    logit -= static_cast<float>(times) * asked.frequency + (times > 0 ? asked.presence : 0.0F);
  }
  for (const int64_t id : masked) logits[static_cast<size_t>(id)] = -INFINITY;
  return logits;
}

std::vector<Asked> AskedForAll() {
  return {{.prompt = {1, 2, 2, 7}, .repetition = 1.3F},
          {.bias = {{0, 5.0F}, {2499, -100.0F}, {2048, -INFINITY}}, .counted = false},
          {.prompt = {3}, .completion = {9, 9, 9, 3, 2499}, .repetition = 0.7F, .frequency = 0.5F, .presence = -1.25F},
          {.completion = {5, 6, 5}, .presence = 1.5F, .bias = {{5, 2.0F}, {6, -INFINITY}, {6, 3.0F}}},
          {.counted = false}};
}

TEST(AdjustLogits, EqualsOneTokenAtATime) {
  const std::vector<Asked> all = AskedForAll();
  const auto rows = static_cast<int64_t>(all.size());
  const at::Tensor logits = at::randn({rows, kVocab}, at::detail::createCPUGenerator(2)) * 4;
  for (const at::Device device : Devices()) {
    for (const Ops& ops : {EagerOps(), FindFusedOps(EagerOps(), OpNames(), device, at::kFloat).ops}) {
      const auto longs = [&](const std::vector<int64_t>& v) { return at::tensor(v, at::kLong).to(device); };
      const auto floats = [&](const std::vector<float>& v) { return at::tensor(v, at::kFloat).to(device); };
      at::Tensor counts = at::zeros({rows, kVocab}, at::TensorOptions(device).dtype(at::kInt));
      std::vector<int64_t> count_rows, offsets = {0}, ids;
      std::vector<float> repetition, frequency, presence, values;
      for (int64_t r = 0; r < rows; ++r) {
        const Asked& asked = all[static_cast<size_t>(r)];
        count_rows.push_back(asked.counted ? rows - 1 - r : -1);
        repetition.push_back(asked.repetition);
        frequency.push_back(asked.frequency);
        presence.push_back(asked.presence);
        for (const auto& [id, value] : asked.bias) {
          ids.push_back(id);
          values.push_back(value);
        }
        offsets.push_back(static_cast<int64_t>(ids.size()));
        counts[rows - 1 - r].index_fill_(0, longs(asked.prompt), int64_t{std::numeric_limits<int32_t>::min()});
      }
      // A token of each completion at a time, as steps draw them.
      for (size_t step = 0; step < 5; ++step) {
        std::vector<int64_t> drawn, drawing;
        for (int64_t r = 0; r < rows; ++r) {
          const Asked& asked = all[static_cast<size_t>(r)];
          drawn.push_back(step < asked.completion.size() ? asked.completion[step] : 0);
          drawing.push_back(step < asked.completion.size() ? count_rows[static_cast<size_t>(r)] : -1);
        }
        ops.count_tokens(counts, longs(drawing), longs(drawn));
      }
      const at::Tensor penalties = at::stack({floats(repetition), floats(frequency), floats(presence)});
      const at::Tensor adjusted = ops.adjust_logits(logits.to(device), counts, longs(count_rows), penalties,
                                                    longs(offsets), longs(ids), floats(values))
                                      .to(at::kCPU);
      for (int64_t r = 0; r < rows; ++r) {
        const float* from = logits.const_data_ptr<float>() + r * kVocab;
        const std::vector<float> expected = Expected({from, from + kVocab}, all[static_cast<size_t>(r)]);
        EXPECT_TRUE(at::allclose(adjusted[r], at::tensor(expected, at::kFloat), 1e-6, 1e-6))
            << ops.adjust_logits.version << " on " << device << ", row " << r;
      }
    }
  }
}

TEST(AdjustLogits, LeavesItsInputAlone) {
  for (const at::Device device : Devices()) {
    for (const Ops& ops : {EagerOps(), FindFusedOps(EagerOps(), OpNames(), device, at::kFloat).ops}) {
      const at::TensorOptions options(device);
      const at::Tensor logits = at::zeros({1, 8}, options), ids = at::full({1}, 3, options.dtype(at::kLong));
      const at::Tensor offsets = at::arange(2, options.dtype(at::kLong));
      const at::Tensor adjusted = ops.adjust_logits(logits, at::empty({0, 8}, options.dtype(at::kInt)),
                                                    at::full({1}, -1, options.dtype(at::kLong)),
                                                    at::ones({3, 1}, options), offsets, ids, at::ones({1}, options));
      EXPECT_EQ(adjusted.sum().item<float>(), 1.0F);
      EXPECT_EQ(logits.count_nonzero().item<int64_t>(), 0);
    }
  }
}

}  // namespace
}  // namespace automodeld
