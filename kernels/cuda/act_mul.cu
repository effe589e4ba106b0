// y = round(act(gate)) * up, with
//   silu(x) = x / (1 + e^-x);  gelu(x) = x / 2 (1 + erf(x / sqrt 2));  gelu_tanh(x) = x / 2 (1 + tanh(u)),
//   u = sqrt(2 / pi) (x + 0.044715 x^3),
// then quantised if asked. Streams three halves of gate_up's size; y is a byte an element where it is quantised.
#include "kernels/cuda/activations.h"
#include "kernels/cuda/approximate.h"
#include "kernels/cuda/rounding.h"
#include "kernels/cuda/row_map.h"
#include "kernels/dispatch.h"
#include "kernels/eager/eager.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

enum class Activation { kSilu, kGelu, kGeluTanh };

template <Activation activation>
__device__ float Activate(float x) {
  // A sum that is infinite or nearly makes zero of what is less than 2^-120 anyway.
  if constexpr (activation == Activation::kSilu) return x * Reciprocal(1.0F + Exp2(-1.44269504F * x));
  if constexpr (activation == Activation::kGelu) return Gelu(x);
  return GeluTanh(x);
}

template <typename T, Activation activation>
struct Gated {
  using Type = T;
  template <int W>
  struct Raw {
    Pack<T, W> gate, up;
  };

  const T* gate_up;
  int64_t stride;
  int width;

  template <int W>
  __device__ Raw<W> Fetch(int64_t row, int i) const {
    const T* gate = gate_up + row * stride + i;
    return {Load<T, W>(gate), Load<T, W>(gate + width)};
  }

  template <int W>
  __device__ Pack<T, W> Of(const Raw<W>& raw) const {
    Pack<T, W> y;
    for (int j = 0; j < W; ++j) {
      const T activated = RoundTo<T>(Activate<activation>(static_cast<float>(raw.gate[j])));
      y[j] = RoundTo<T>(static_cast<float>(activated) * static_cast<float>(raw.up[j]));
    }
    return y;
  }
};

template <Activation activation>
MappedRows Run(const at::Tensor& gate_up, bool quantize) {
  MappedRows out;
  DispatchFloats("act_mul", gate_up, [&](auto zero) {
    using T = decltype(zero);
    const int64_t width = gate_up.size(1) / 2, stride = gate_up.stride(0);
    const Gated<T, activation> rows{gate_up.const_data_ptr<T>(), stride, static_cast<int>(width)};
    const bool aligned = Aligned16(rows.gate_up) && (width | stride) % (16 / sizeof(T)) == 0;
    out = MapRows(rows, gate_up.size(0), width, aligned, gate_up.options(), quantize);
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> ActMul(const at::Tensor& gate_up, const std::string& activation, bool quantize) {
  if (gate_up.dim() != 2 || gate_up.numel() == 0) return eager::ActMul(gate_up, activation, quantize);
  TORCH_CHECK(gate_up.size(1) % 2 == 0, "act_mul: gate_up has ", gate_up.size(1), " columns, expected an even number");
  const c10::DeviceGuard guard(gate_up.device());
  const at::Tensor rows = DenseRows(gate_up);
  MappedRows out;
  if (activation == "silu") {
    out = Run<Activation::kSilu>(rows, quantize);
  } else if (activation == "gelu") {
    out = Run<Activation::kGelu>(rows, quantize);
  } else if (activation == "gelu_tanh") {
    out = Run<Activation::kGeluTanh>(rows, quantize);
  } else {
    TORCH_CHECK(false, "act_mul: activation '", activation, "' is none of silu, gelu, gelu_tanh");
  }
  return {out.y, out.scale};
}

const bool registered = RegisterKernel(&Ops::act_mul, at::kCUDA, FusedDtypes(), ActMul, ActMulSamples);

}  // namespace
}  // namespace automodeld
