// y = round(act(gate)) * up, with
//   silu(x) = x / (1 + e^-x);  gelu(x) = x / 2 (1 + erf(x / sqrt 2));  gelu_tanh(x) = x / (1 + e^(-2 u)),
//   u = sqrt(2 / pi) (x + 0.044715 x^3).
// Streams three halves of gate_up's size.
#include <cmath>

#include "kernels/cpu/activations.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/dispatch.h"
#include "kernels/eager/eager.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

template <typename T, typename Activation>
struct ActMulRows {
  template <int W>
  AUTOMODELD_INLINE static void Run(const T* gate_up, int64_t stride, T* y, int64_t n, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T *gate = gate_up + row * stride, *up = gate + n;
      for (int64_t i = 0; i < n; i += W) {
        const Floats<W> activated = RoundTo<W, T>(Activation::template Of<W>(LoadPart<W>(gate + i, n - i)));
        StorePart<W>(y + row * n + i, activated * LoadPart<W>(up + i, n - i), n - i);
      }
    }
  }
};

template <typename Activation>
void Run(const at::Tensor& gate_up, at::Tensor& y) {
  DispatchFloats("act_mul", gate_up, [&](auto zero) {
    using T = decltype(zero);
    const T* from = gate_up.const_data_ptr<T>();
    T* to = y.mutable_data_ptr<T>();
    const int64_t n = y.size(1), stride = gate_up.stride(0);
    ForRows(y.size(0), 4 * n,
            [&](int64_t begin, int64_t end) { RunSimd<ActMulRows<T, Activation>>(from, stride, to, n, begin, end); });
  });
}

std::tuple<at::Tensor, at::Tensor> ActMul(const at::Tensor& gate_up, const std::string& activation, bool quantize) {
  if (gate_up.dim() != 2) return eager::ActMul(gate_up, activation, quantize);
  TORCH_CHECK(gate_up.size(1) % 2 == 0, "act_mul: gate_up has ", gate_up.size(1), " columns, expected an even number");
  const at::Tensor rows = DenseRows(gate_up);
  at::Tensor y = at::empty({gate_up.size(0), gate_up.size(1) / 2}, gate_up.options());
  if (activation == "silu") {
    Run<Silu>(rows, y);
  } else if (activation == "gelu") {
    Run<Gelu>(rows, y);
  } else if (activation == "gelu_tanh") {
    Run<GeluTanh>(rows, y);
  } else {
    TORCH_CHECK(false, "act_mul: activation '", activation, "' is none of silu, gelu, gelu_tanh");
  }
  return eager::QuantizeRows(y, quantize);
}

const bool registered = RegisterKernel(&Ops::act_mul, at::kCPU, FusedDtypes(), ActMul, ActMulSamples);

}  // namespace
}  // namespace automodeld
