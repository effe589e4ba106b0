// scale = max |x| / 448 over a row, at least 1e-12; value = x / scale in float8_e4m3fn (kernels/cuda/row_quantize.h).
// Reads x once and writes a byte an element.
#include "kernels/cuda/quantize.h"
#include "kernels/cuda/row_map.h"
#include "kernels/dispatch.h"
#include "kernels/eager/eager.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

template <typename T>
struct Plain {
  using Type = T;
  template <int W>
  using Raw = Pack<T, W>;

  const T* x;
  int64_t stride;

  template <int W>
  __device__ Pack<T, W> Fetch(int64_t row, int i) const {
    return Load<T, W>(x + row * stride + i);
  }

  template <int W>
  __device__ Pack<T, W> Of(const Pack<T, W>& raw) const {
    return raw;
  }
};

bool HasKernel(at::ScalarType type) {
  const std::vector<at::ScalarType> types = FusedDtypes();
  return std::ranges::find(types, type) != types.end();
}

}  // namespace

LinearInput CudaQuantizeRows(const at::Tensor& x) {
  if (x.dim() != 2 || x.numel() == 0 || !HasKernel(x.scalar_type())) {
    auto [values, scale] = eager::QuantizeRows(x, /*quantize=*/true);
    return {values, scale, x.scalar_type()};
  }
  const c10::DeviceGuard guard(x.device());
  const at::Tensor rows = DenseRows(x);
  MappedRows out;
  DispatchFloats("quantize", x, [&](auto zero) {
    using T = decltype(zero);
    const Plain<T> source{rows.const_data_ptr<T>(), rows.stride(0)};
    const bool aligned = Aligned16(source.x) && (rows.size(1) | source.stride) % (16 / sizeof(T)) == 0;
    out = MapRows(source, rows.size(0), rows.size(1), aligned, rows.options(), /*quantize=*/true);
  });
  return {out.y, out.scale, x.scalar_type()};
}

}  // namespace automodeld
