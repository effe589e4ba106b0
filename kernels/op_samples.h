// What to try each op on: shapes of models, and the ones likely to break a kernel: one row, none, odd widths, rows
// apart in memory, data off alignment. Every fused version of an op, whatever its device, is held to the same list.
#ifndef KERNELS_OP_SAMPLES_H_
#define KERNELS_OP_SAMPLES_H_

#include <vector>

#include "kernels/samples.h"

namespace automodeld {

std::vector<Sample> RmsNormSamples();
std::vector<Sample> LayerNormSamples();
std::vector<Sample> ActMulSamples();
std::vector<Sample> QkvRopeWriteKvSamples();
std::vector<Sample> SampleSamples();

}  // namespace automodeld

#endif  // KERNELS_OP_SAMPLES_H_
