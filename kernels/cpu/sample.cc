// kernels/sampling.h without a sort of the row: tokens are counted in buckets by their distance from the largest logit,
// and only the bucket in which the first k, or the share p, ends is sorted. Rows run in parallel.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/token_weights.h"
#include "kernels/dispatch.h"
#include "kernels/eager/eager.h"
#include "kernels/op_samples.h"
#include "kernels/philox.h"
#include "kernels/registry.h"
#include "kernels/sampling.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

constexpr int64_t kBuckets = 2048;
constexpr double kWidestInTemperatures = 32.0;  // weights are 0 long before
constexpr int64_t kTokensPerSum = 512;

struct Bucket {
  int64_t tokens = 0, weight = 0;
};

// One row and what was asked for it.
template <typename T>
struct SampleRow {
  const T* logits;
  int64_t vocab;
  double temperature, top_p, min_p;
  int64_t top_k;
  uint64_t seed, position;

  float Logit(int64_t token) const { return static_cast<float>(logits[token]); }
};

// Tokens in the order of kernels/sampling.h up to and including this one are kept.
struct LastKept {
  float logit;
  int64_t token;
};

// The histogram of a row, and walks along its order.
template <typename T>
class RankedTokens {
 public:
  RankedTokens(const SampleRow<T>& row, const LogitRange& range, const int64_t* weights)
      : row_(row), weights_(weights), largest_(range.largest) {
    const double width =
        std::min(static_cast<double>(range.largest) - range.smallest, kWidestInTemperatures * row.temperature);
    const double most = std::numeric_limits<float>::max();  // of a temperature near 0: only the largest logits count
    buckets_per_logit_ = width > 0 ? static_cast<float>(std::min((kBuckets - 1) / width, most)) : 0.0f;
    for (int64_t token = 0; token < row.vocab; ++token) {
      Bucket& bucket = buckets_[BucketOf(token)];
      ++bucket.tokens;
      bucket.weight += weights[token];
    }
  }

  // The token of rank k - 1, and the weight of the first k.
  LastKept FirstK(int64_t k, int64_t& weight) {
    weight = 0;
    size_t b = 0;
    for (; buckets_[b].tokens < k; ++b) {
      k -= buckets_[b].tokens;
      weight += buckets_[b].weight;
    }
    const std::vector<int64_t>& tokens = Sorted(b);
    for (int64_t i = 0; i < k; ++i) weight += weights_[tokens[static_cast<size_t>(i)]];
    return At(tokens[static_cast<size_t>(k - 1)]);
  }

  // The last of the shortest prefix that weighs `reach` or more; reach is at most the row's weight.
  LastKept Reach(int64_t reach) {
    size_t b = 0;
    for (; buckets_[b].tokens == 0 || buckets_[b].weight < reach; ++b) reach -= buckets_[b].weight;
    const std::vector<int64_t>& tokens = Sorted(b);
    size_t i = 0;
    for (; weights_[tokens[i]] < reach; ++i) reach -= weights_[tokens[i]];
    return At(tokens[i]);
  }

 private:
  size_t BucketOf(int64_t token) const {
    const float bucket = (largest_ - row_.Logit(token)) * buckets_per_logit_;
    return static_cast<size_t>(std::min(bucket, static_cast<float>(kBuckets - 1)));
  }

  LastKept At(int64_t token) const { return {row_.Logit(token), token}; }

  const std::vector<int64_t>& Sorted(size_t bucket) {
    if (sorted_bucket_ == bucket) return sorted_;
    sorted_bucket_ = bucket;
    sorted_.clear();
    for (int64_t token = 0; token < row_.vocab; ++token) {
      if (BucketOf(token) == bucket) sorted_.push_back(token);
    }
    std::ranges::sort(sorted_, [this](int64_t a, int64_t b) {
      const float x = row_.Logit(a), y = row_.Logit(b);
      return x > y || (x == y && a < b);
    });
    return sorted_;
  }

  const SampleRow<T>& row_;
  const int64_t* weights_;
  float largest_, buckets_per_logit_;
  std::vector<Bucket> buckets_ = std::vector<Bucket>(kBuckets);
  size_t sorted_bucket_ = kBuckets;  // none yet
  std::vector<int64_t> sorted_;
};

template <typename T>
int64_t FirstLargest(const SampleRow<T>& row, const LogitRange& range) {
  for (int64_t token = 0; token < row.vocab; ++token) {
    const float logit = row.Logit(token);
    if (range.has_nan ? logit != logit : logit == range.largest) return token;
  }
  return 0;
}

// Takes the weights of the tokens beyond top_k and top_p away.
template <typename T>
void Filter(const SampleRow<T>& row, const LogitRange& range, int64_t* weights) {
  const bool by_k = row.top_k > 0 && row.top_k < row.vocab, by_p = row.top_p < 1.0;
  if (!by_k && !by_p) return;
  RankedTokens<T> ranked(row, range, weights);
  LastKept last{};
  int64_t weight = 0;
  if (by_k) {
    last = ranked.FirstK(row.top_k, weight);
  } else {
    RunSimd<SumWeights>(static_cast<const int64_t*>(weights), row.vocab, int64_t{1}, &weight);
  }
  if (by_p) {
    last = ranked.Reach(std::max<int64_t>(1, static_cast<int64_t>(std::ceil(row.top_p * static_cast<double>(weight)))));
  }
  for (int64_t token = 0; token < row.vocab; ++token) {
    const float logit = row.Logit(token);
    if (logit < last.logit || (logit == last.logit && token > last.token)) weights[token] = 0;
  }
}

// The first token, by id, at which the running sum of weights that are at least `least` exceeds the draw; -1 where
// there is no weight.
int64_t Draw(const int64_t* weights, int64_t vocab, int64_t least, double uniform) {
  std::vector<int64_t> sums(static_cast<size_t>((vocab + kTokensPerSum - 1) / kTokensPerSum));
  int64_t total = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    const int64_t begin = static_cast<int64_t>(i) * kTokensPerSum;
    RunSimd<SumWeights>(weights + begin, std::min(kTokensPerSum, vocab - begin), least, &sums[i]);
    total += sums[i];
  }
  if (total <= 0) return -1;
  int64_t left = std::min(static_cast<int64_t>(std::floor(uniform * static_cast<double>(total))), total - 1);
  size_t block = 0;
  for (; sums[block] <= left; ++block) left -= sums[block];
  int64_t token = static_cast<int64_t>(block) * kTokensPerSum;
  for (;; ++token) {
    if (weights[token] >= least) left -= weights[token];
    if (left < 0) return token;
  }
}

template <typename T>
int64_t SampleOne(const SampleRow<T>& row) {
  LogitRange range;
  RunSimd<FindRange<T>>(row.logits, row.vocab, &range);
  if (row.temperature <= 0 || range.has_nan || !std::isfinite(range.largest)) return FirstLargest(row, range);
  thread_local std::vector<int64_t> memory;
  memory.resize(static_cast<size_t>(row.vocab));
  int64_t* weights = memory.data();
  RunSimd<FindWeights<T>>(row.logits, row.vocab, range.largest, row.temperature, weights);
  Filter(row, range, weights);
  const auto least = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(row.min_p * kWeightOne)));
  const int64_t token = Draw(weights, row.vocab, least, UniformDouble(Philox(row.seed, row.position)));
  return token >= 0 ? token : FirstLargest(row, range);
}

at::Tensor Dense(const char* what, const at::Tensor& x, int64_t rows, at::ScalarType type) {
  CheckShape(what, x, {rows});
  CheckType(what, x, type);
  return x.contiguous();
}

at::Tensor Sample(const at::Tensor& logits, const at::Tensor& temperature, const at::Tensor& top_k,
                  const at::Tensor& top_p, const at::Tensor& min_p, const at::Tensor& seeds,
                  const at::Tensor& positions) {
  TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0, "sample: logits have shape ", logits.sizes(),
              ", expected [rows, vocab]");
  const int64_t rows = logits.size(0);
  const at::Tensor dense = DenseRows(logits), t = Dense("sample: temperature", temperature, rows, at::kFloat);
  const at::Tensor k = Dense("sample: top_k", top_k, rows, at::kLong),
                   p = Dense("sample: top_p", top_p, rows, at::kFloat);
  const at::Tensor m = Dense("sample: min_p", min_p, rows, at::kFloat),
                   s = Dense("sample: seeds", seeds, rows, at::kLong);
  const at::Tensor at = Dense("sample: positions", positions, rows, at::kLong);
  at::Tensor tokens = at::empty({rows}, logits.options().dtype(at::kLong));
  DispatchFloats("sample", logits, [&](auto zero) {
    using T = decltype(zero);
    const auto row = [&](int64_t i) -> SampleRow<T> {
      return {.logits = dense.const_data_ptr<T>() + i * dense.stride(0),
              .vocab = logits.size(1),
              .temperature = t.const_data_ptr<float>()[i],
              .top_p = p.const_data_ptr<float>()[i],
              .min_p = m.const_data_ptr<float>()[i],
              .top_k = k.const_data_ptr<int64_t>()[i],
              .seed = static_cast<uint64_t>(s.const_data_ptr<int64_t>()[i]),
              .position = static_cast<uint64_t>(at.const_data_ptr<int64_t>()[i])};
    };
    int64_t* out = tokens.mutable_data_ptr<int64_t>();
    ForRows(rows, 4 * logits.size(1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out[i] = SampleOne(row(i));
    });
  });
  return tokens;
}

const bool registered = RegisterKernel(&Ops::sample, at::kCPU, FusedDtypes(), Sample, SampleSamples);

}  // namespace
}  // namespace automodeld
