// y = round(act(gate)) * up (kernels/cuda/gate_maths.h), then quantised if asked. Streams three halves of gate_up's
// size; y is a byte an element where it is quantised.
#include "kernels/cuda/gate_maths.h"
#include "kernels/cuda/row_map.h"
#include "kernels/dispatch.h"
#include "kernels/eager/eager.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

template <typename T, Gate activation>
struct GatedRow {
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
    return Gated<activation>(raw.gate, raw.up);
  }
};

template <Gate activation>
MappedRows Run(const at::Tensor& gate_up, bool quantize) {
  MappedRows out;
  DispatchFloats("act_mul", gate_up, [&](auto zero) {
    using T = decltype(zero);
    const int64_t width = gate_up.size(1) / 2, stride = gate_up.stride(0);
    const GatedRow<T, activation> rows{gate_up.const_data_ptr<T>(), stride, static_cast<int>(width)};
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
    out = Run<Gate::kSilu>(rows, quantize);
  } else if (activation == "gelu") {
    out = Run<Gate::kGelu>(rows, quantize);
  } else if (activation == "gelu_tanh") {
    out = Run<Gate::kGeluTanh>(rows, quantize);
  } else {
    TORCH_CHECK(false, "act_mul: activation '", activation, "' is none of silu, gelu, gelu_tanh");
  }
  return {out.y, out.scale};
}

const bool registered = RegisterKernel(&Ops::act_mul, at::kCUDA, FusedDtypes(), ActMul, ActMulSamples);

}  // namespace
}  // namespace automodeld
