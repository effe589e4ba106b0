// What a linear layer multiplies: rows, quantised already or not.
//
//   LinearInput x = at::Tensor(...);                    // plain rows; a layer with an FP8 weight quantises them itself
//   LinearInput x{values, scale, at::kBFloat16};        // what rms_norm, act_mul or attention quantised on the way
#ifndef KERNELS_LINEAR_INPUT_H_
#define KERNELS_LINEAR_INPUT_H_

#include <ATen/ATen.h>

#include <utility>

namespace automodeld {

struct LinearInput {
  at::Tensor values;     // [tokens, in], dense
  at::Tensor scale;      // [tokens, 1] float32 where values are float8_e4m3fn, else undefined
  at::ScalarType dtype;  // that the rows had before they were quantised, and that the product will have

  LinearInput(at::Tensor rows)  // NOLINT(google-explicit-constructor): plain rows are the usual input
      : values(std::move(rows)), dtype(values.scalar_type()) {}
  LinearInput(at::Tensor rows, at::Tensor row_scale, at::ScalarType type)
      : values(std::move(rows)), scale(std::move(row_scale)), dtype(type) {}

  bool quantized() const { return scale.defined(); }
};

}  // namespace automodeld

#endif  // KERNELS_LINEAR_INPUT_H_
