// Questions that kernels ask of their arguments, and the errors that name what was given.
//
//   CheckShape("rms_norm: weight", weight, {hidden});  // rms_norm: weight has shape [64], expected [128]
#ifndef KERNELS_TENSORS_H_
#define KERNELS_TENSORS_H_

#include <ATen/ATen.h>

#include <optional>
#include <string>

namespace automodeld {

// An optional tensor may be absent, or present and undefined: both mean that there is none.
inline bool IsDefined(const std::optional<at::Tensor>& x) { return x.has_value() && x->defined(); }

// Of an exception's text: libtorch's goes on with a stack trace.
inline std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

inline void CheckShape(const char* what, const at::Tensor& x, at::IntArrayRef expected) {
  TORCH_CHECK(x.sizes() == expected, what, " has shape ", x.sizes(), ", expected ", expected);
}

inline void CheckType(const char* what, const at::Tensor& x, at::ScalarType expected) {
  TORCH_CHECK(x.scalar_type() == expected, what, " is ", x.scalar_type(), ", expected ", expected);
}

// Rows of `width` elements that kernels can walk with one stride: the last dimension is dense, and a 2-D view exists.
// Copies only where that does not hold.
inline at::Tensor DenseRows(const at::Tensor& x) {
  const bool dense = x.dim() == 2 && (x.stride(1) == 1 || x.size(1) <= 1) && x.stride(0) >= x.size(1);
  return dense ? x : x.contiguous();
}

}  // namespace automodeld

#endif  // KERNELS_TENSORS_H_
