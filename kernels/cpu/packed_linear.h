// Linear layers in float32 on the CPU for weights that were packed once: no copy of weight or bias per call, and the
// activation is applied while the result is in registers.
#ifndef KERNELS_CPU_PACKED_LINEAR_H_
#define KERNELS_CPU_PACKED_LINEAR_H_

#include <ATen/ATen.h>

#include <optional>
#include <string>

namespace automodeld {

// Whether PackLinear takes the weight: [out, in] in float32 on the CPU, out a multiple of 32.
bool CanPackLinear(const at::Tensor& weight);

// [out, in] -> [out / 32, in, 32].
at::Tensor PackLinear(const at::Tensor& weight);

// y = act(x W^T + bias) for x [rows, in] and a packed weight; `activation` as RunLinear. A row of y has the same bits
// whatever the other rows are.
at::Tensor PackedLinear(const at::Tensor& x, const at::Tensor& packed, const std::optional<at::Tensor>& bias,
                        const std::string& activation);

}  // namespace automodeld

#endif  // KERNELS_CPU_PACKED_LINEAR_H_
