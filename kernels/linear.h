// y = act(x W^T + bias): the one road by which every layer multiplies by a weight, plain or FP8.
//
//   at::Tensor y = RunLinear(x, weight, bias);  // x [tokens, in], weight [out, in], bias [out] -> y [tokens, out]
//
// For a plain weight picks the fastest of what this build and machine have for the shape, dtype and device, and
// at::linear otherwise. Sums are kept in float32 whatever the dtype. A row of y does not depend on the other rows of x
// in value beyond rounding, and in float32 on the CPU not in a bit. Any thread; throws c10::Error on a wrong shape.
#ifndef KERNELS_LINEAR_H_
#define KERNELS_LINEAR_H_

#include <ATen/ATen.h>

#include <optional>
#include <string>
#include <variant>

#include "kernels/fp8.h"
#include "kernels/linear_input.h"

namespace automodeld {

// A weight in the form in which it is kept: plain [out, in] (or what PackWeight made of it), or FP8.
using LinearWeight = std::variant<at::Tensor, Fp8Weight>;

// Whether RunLinear quantises plain rows for this weight, so that whoever makes them may as well.
inline bool TakesQuantized(const LinearWeight& weight) { return std::holds_alternative<Fp8Weight>(weight); }

// `activation`: none if empty, else one of Activate's. Only a weight that TakesQuantized takes quantised rows.
at::Tensor RunLinear(const LinearInput& x, const LinearWeight& weight, const std::optional<at::Tensor>& bias = {},
                     const std::string& activation = "");

// The weight in the order in which it is multiplied fastest, for RunLinear alone; `weight` itself where there is no
// better one. There is one for float32 on the CPU.
at::Tensor PackWeight(const at::Tensor& weight);

// Which of our kernels the device, a GPU, does without and why, for the load report; empty if it has all, and for other
// devices. The second says it of a GPU of that compute capability, whatever it has.
std::string MissingKernels(at::Device device);
std::string MissingKernels(int major, int minor);

// "silu", "gelu", "gelu_tanh" or "relu" of each element.
at::Tensor Activate(const at::Tensor& x, const std::string& activation);

}  // namespace automodeld

#endif  // KERNELS_LINEAR_H_
