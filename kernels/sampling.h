// What every version of `sample` shares, so that all pick the same token from the same logits.
//
// A token's weight is exp((logit - max) / temperature), computed in double and rounded to a multiple of 2^-40, so that
// sums of weights are exact integers in whatever order they are taken. The order of tokens is by logit, descending,
// then by id, ascending. Kept are, in this order: the first top_k; of those the shortest prefix whose weights reach
// top_p of their sum (the first token always); of those the ones with weight >= min_p. The draw r = floor(u * sum of
// the kept) picks the first kept token, by id, at which the running sum exceeds r. Where no weight is left (a NaN, an
// infinity) the largest logit is taken.
#ifndef KERNELS_SAMPLING_H_
#define KERNELS_SAMPLING_H_

namespace automodeld {

inline constexpr double kWeightOne = 0x1p40;      // the weight of the largest logit
inline constexpr double kLowestExponent = -28.5;  // e^-28.5 and less weigh 0

}  // namespace automodeld

#endif  // KERNELS_SAMPLING_H_
