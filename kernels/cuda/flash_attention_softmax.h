// How scores become weights: masks, soft cap and online softmax, by the threads that hold the scores.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_SOFTMAX_H_
#define KERNELS_CUDA_FLASH_ATTENTION_SOFTMAX_H_

#include <cmath>

#include "kernels/cuda/flash_attention.h"
#include "kernels/cuda/flash_attention_mma.h"

namespace automodeld {

// 1 / the sum of weights, the sink's among them, times what values are multiplied with; 0 for a row that sees nothing.
__device__ inline float Normalizer(const FlashArgs& a, int head, float largest, float sum) {
  if (a.sinks != nullptr) sum += Exp2(fminf(a.sinks[head] * 1.4426950408889634f - largest, 126.0f));
  return sum > 0.0f ? __fdividef(a.result_factor, sum) : 0.0f;
}

// Of a warp's 16 M rows against tiles of Keys keys. Its lane l has rows 16 m + l / 4 (+ 8), m < M, in slots 2 m (+ 1),
// and of each 8 keys l % 4 * 2 and the next.
template <int M, int Keys>
class FlashSoftmax {
  static constexpr int kKeyTiles = Keys / 8;

 public:
  static constexpr int kSlots = 2 * M;
  using Scores = float[M][kKeyTiles][4];  // [..][..][2 (slot % 2) + key]

  // first: the warp's first packed row of the sequence
  __device__ FlashSoftmax(const FlashArgs& args, const FlashSequence& s, int first)
      : a_(args), lane_(static_cast<int>(threadIdx.x) % 32) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      largest_[i] = -INFINITY;
      sum_[i] = 0.0f;
      position_[i] = s.context - s.num_rows + (first + Row(i)) / args.group;
    }
    const int before = s.context - s.num_rows, last = first + 16 * M - 1;
    every_end_ = args.causal ? before + first / args.group + 1 : s.context;
    every_begin_ = args.window > 0 ? before + last / args.group - args.window + 1 : 0;
    context_ = s.context;
  }

  // Of slot i, among the warp's rows.
  __device__ int Row(int i) const { return i / 2 * 16 + lane_ / 4 + i % 2 * 8; }

  // Products become weights relative to the largest score so far. Whether that changed for any of the warp's rows: then
  // sums over earlier keys are to be multiplied by `shrink`.
  __device__ bool Weigh(int first_key, Scores& scores, float (&shrink)[kSlots]) {
    Mask(first_key, scores);
    return Weights(scores, shrink);
  }

  // Largest score, in units of log 2; sum of weights, complete after Finish.
  __device__ float Largest(int i) const { return largest_[i] * a_.score_factor; }
  __device__ float SumOfWeights(int i) const { return sum_[i]; }
  __device__ void Finish() {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) sum_[i] = RowSum(sum_[i]);
  }

 private:
  __device__ void Mask(int first_key, Scores& scores) const {
    if (a_.cap_factor != 0.0f) {
#pragma unroll
      for (int i = 0; i < M * kKeyTiles * 4; ++i) {
        float& score = scores[i / (kKeyTiles * 4)][i / 4 % kKeyTiles][i % 4];
        score = Tanh(score * a_.cap_factor);
      }
    }
    if (first_key + Keys <= every_end_ && first_key >= every_begin_) return;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      const int end = a_.causal ? position_[i] + 1 : context_;
      const int begin = a_.window > 0 ? position_[i] - a_.window + 1 : 0;
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int key = first_key + n * 8 + lane_ % 4 * 2 + j;
          if (key >= end || key < begin) scores[i / 2][n][i % 2 * 2 + j] = -INFINITY;
        }
      }
    }
  }

  __device__ bool Weights(Scores& scores, float (&shrink)[kSlots]) {
    bool changed = false;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      float largest = largest_[i];
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        largest = fmaxf(largest, fmaxf(scores[i / 2][n][i % 2 * 2], scores[i / 2][n][i % 2 * 2 + 1]));
      }
      largest = RowMax(largest);
      const float zero = largest == -INFINITY ? 0.0f : largest * a_.score_factor;  // nothing seen yet: all weights 0
      shrink[i] = Exp2(largest_[i] * a_.score_factor - zero);
      changed = changed || largest != largest_[i];
      largest_[i] = largest;
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& score = scores[i / 2][n][i % 2 * 2 + j];
          score = Exp2(score * a_.score_factor - zero);
          sum += score;
        }
      }
      sum_[i] = sum_[i] * shrink[i] + sum;
    }
    return __any_sync(0xffffffffU, changed);
  }

  const FlashArgs& a_;
  const int lane_;
  int context_, every_end_, every_begin_;  // keys in [every_begin_, every_end_) are seen by all of the warp's rows
  int position_[kSlots];
  float largest_[kSlots], sum_[kSlots];
};

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_SOFTMAX_H_
