// What to try each op on: shapes of models, and the ones likely to break a kernel: one row, none, odd widths, rows
// apart in memory, data off alignment. Every fused version of an op, whatever its device, is held to the same list.
#ifndef KERNELS_OP_SAMPLES_H_
#define KERNELS_OP_SAMPLES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/samples.h"

namespace automodeld {

std::vector<Sample> EmbedTokensSamples();
std::vector<Sample> RmsNormSamples();
std::vector<Sample> LayerNormSamples();
std::vector<Sample> ActMulSamples();
std::vector<Sample> QkvRopeWriteKvSamples();
std::vector<Sample> AdjustLogitsSamples();
std::vector<Sample> CountTokensSamples();
std::vector<Sample> SampleSamples();
std::vector<Sample> PoolRowsSamples();

// A model's dimensions, as far as its operations' shapes follow from them.
struct OpDims {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
};

// A few rows of one op (by name) at a model's shapes, in each way that models call it: to try a version in milliseconds
// before it is put to use. Dimensions beyond those of any real model are cut, so that a wrong config.json cannot take
// the memory.
std::vector<Sample> ModelSamples(const std::string& op, const OpDims& dims);

// Of those, the ones that follow from the vocabulary alone: adjust_logits, count_tokens and sample.
std::vector<Sample> ModelSamplingSamples(const std::string& op, int64_t vocab);

// ModelSamples of pool_rows.
std::vector<Sample> ModelPoolRowsSamples(int64_t hidden_size);

}  // namespace automodeld

#endif  // KERNELS_OP_SAMPLES_H_
