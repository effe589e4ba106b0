// A row of logits in the shared memory of a cluster: each block holds a part, and the weights of kernels/sampling.h are
// computed from it wherever they are needed.
#ifndef KERNELS_CUDA_SAMPLE_ROW_H_
#define KERNELS_CUDA_SAMPLE_ROW_H_

#include <cfloat>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/sample_sums.h"
#include "kernels/sampling.h"

namespace automodeld::sampling {

constexpr int kLoad = 8;            // logits that a thread reads at once
constexpr int kPiece = 32 * kLoad;  // logits that a warp reads at once
constexpr int kPowerBits = 6, kPowers = 1 << kPowerBits;
constexpr double kLn2 = 0.6931471805599453;
constexpr int kIdBits = 18;                // of a token's id
constexpr uint32_t kLowestKey = 0x7FFFFF;  // of -infinity

// Ordered as logits are: that of a NaN is above all others, 0 and -0 have the same.
__device__ inline uint32_t KeyOf(float logit) {
  if (logit != logit) return 0xFFFFFFFFU;
  const uint32_t bits = __float_as_uint(logit + 0.0F);
  return bits ^ ((bits >> 31) != 0 ? 0xFFFFFFFFU : 0x80000000U);
}

__device__ inline float LogitOf(uint32_t key) {
  return __uint_as_float(key ^ ((key >> 31) != 0 ? 0x80000000U : 0xFFFFFFFFU));
}

// Low bits of a key that T's values leave alike.
template <typename T>
__device__ constexpr int UnusedBits() {
  if (sizeof(T) == 4) return 0;
  return std::is_same_v<T, at::Half> ? 13 : 16;
}

// What one block holds of a row, and the row's extremes.
template <typename T>
struct RowPart {
  const T* values;  // shared, [pieces * kPiece], with -infinity beyond the row's end
  int pieces;
  uint32_t first;        // id of values[0]
  uint32_t best;         // id of the first largest logit
  float largest, least;  // least: of the finite ones

  const double* powers;     // shared, [kPowers]: 2^(i / kPowers)
  double powers_per_logit;  // kPowers / ln(2) / temperature
  float lowest;             // logits below it weigh nothing
  float buckets_per_logit;  // of the histogram by distance from the largest logit

  __device__ void SetTemperature(float t) {
    const double temperature = fminf(t, FLT_MAX);
    powers_per_logit = kPowers / kLn2 / temperature;
    lowest = static_cast<float>(largest + (kLowestExponent - 0.1) * temperature);
  }

  // Buckets are that much of a temperature together, or what the logits span; the last one holds all beyond them, too.
  // False: they span less.
  __device__ bool SetBuckets(double temperatures) {
    const double span = static_cast<double>(largest) - least,
                 asked = temperatures * (kPowers / kLn2) / powers_per_logit;
    const double width = fmin(span, asked);
    buckets_per_logit = width > 0 ? static_cast<float>(fmin((kBuckets - 1) / width, static_cast<double>(FLT_MAX))) : 0;
    return asked < span;
  }

  // exp is 2^(n / kPowers) from the table times a polynomial, within 2 units in the last place before it is rounded.
  __device__ int64_t Weight(float logit) const {
    constexpr double kRoundToInteger = 0x1.8p52, c = kLn2 / kPowers;
    if (!(logit >= lowest)) return 0;
    const double distance = static_cast<double>(logit) - largest;
    const double shifted = fma(distance, powers_per_logit, kRoundToInteger);
    const double f = fma(distance, powers_per_logit, kRoundToInteger - shifted);
    double p = fma(f, c * c * c * c * c / 120, c * c * c * c / 24);
    p = fma(f, p, c * c * c / 6);
    p = fma(f, p, c * c / 2);
    p = f * fma(f, p, c);
    const int n = __double2loint(shifted);
    const double power = powers[n & (kPowers - 1)];
    const double scale = __hiloint2double((1023 + 40 + (n >> kPowerBits)) << 20, 0);
    const double weight = fma(fma(power, p, power), scale, kRoundToInteger);
    return __double_as_longlong(weight) - __double_as_longlong(kRoundToInteger);
  }

  __device__ int BucketOf(float logit) const {
    return static_cast<int>(fminf((largest - logit) * buckets_per_logit, kBuckets - 1));
  }

  // In the order of kernels/sampling.h, ascending: the logit and then the id in one number.
  __device__ uint64_t PlaceOf(float logit, uint32_t id) const { return FirstPlace(logit) | id; }

  __device__ uint64_t FirstPlace(float logit) const { return uint64_t{(~KeyOf(logit)) >> UnusedBits<T>()} << kIdBits; }

  // Calls visit(piece, id of the first, logits) for what this thread has of each piece; a warp's threads together.
  template <typename Visit>
  __device__ void ForPieces(const Visit& visit) const {
    for (int piece = static_cast<int>(threadIdx.x) / 32; piece < pieces; piece += kWarps) {
      const int at = piece * kPiece + static_cast<int>(threadIdx.x) % 32 * kLoad;
      visit(piece, first + static_cast<uint32_t>(at), Load<T, kLoad>(values + at));
    }
  }

  // Calls visit(id, logit) for each token of the block.
  template <typename Visit>
  __device__ void ForTokens(const Visit& visit) const {
    ForPieces([&](int, uint32_t id, const Pack<T, kLoad>& logits) {
#pragma unroll
      for (int i = 0; i < kLoad; ++i) visit(id + static_cast<uint32_t>(i), static_cast<float>(logits[i]));
    });
  }

  // Counts, and weighs, the tokens that may weigh anything and that bucket_of(id, logit) gives a bucket (-1: none).
  template <typename Bucket>
  __device__ void Count(Histogram& histogram, bool weigh, const Bucket& bucket_of) const {
    Sum beyond{};  // of the last bucket, which may be that of most tokens
    ForTokens([&](uint32_t id, float logit) {
      if (!(logit >= lowest)) return;
      const int bucket = bucket_of(id, logit);
      if (bucket < 0) return;
      const int64_t weight = weigh ? Weight(logit) : 0;
      if (bucket < kBuckets - 1) {
        histogram.Add(bucket, weight);
      } else {
        beyond = beyond + Sum{weight, 1};
      }
    });
    const int64_t weight = WarpSum(beyond.weight);
    const uint32_t tokens = __reduce_add_sync(kEveryLane, beyond.tokens);
    if (threadIdx.x % 32 == 0 && tokens > 0) histogram.Add(kBuckets - 1, weight, tokens);
  }
};

// The smallest and the largest place that a token of a bucket may have.
struct Places {
  uint64_t low, high;
};

template <typename T>
__device__ Places PlacesOf(const RowPart<T>& row, int bucket) {
  constexpr double kRounding = 1e-6;  // above the error of two roundings to float32
  constexpr uint64_t kIds = (uint64_t{1} << kIdBits) - 1;
  const double logits_per_bucket = row.buckets_per_logit > 0 ? 1.0 / row.buckets_per_logit : 0.0;
  const bool last = bucket == kBuckets - 1;  // and what lies beyond
  const double above = last ? 0.0 : bucket * logits_per_bucket * (1 - kRounding);
  const double below = (bucket + 1) * logits_per_bucket * (1 + kRounding);
  const float most = __double2float_ru(row.largest - above);
  const float least = last ? row.least : __double2float_rd(row.largest - below);
  return {row.FirstPlace(fminf(most, row.largest)), row.FirstPlace(fmaxf(least, row.least)) | kIds};
}

}  // namespace automodeld::sampling

#endif  // KERNELS_CUDA_SAMPLE_ROW_H_
