// From a tensor's dtype to a C++ type.
#ifndef KERNELS_DISPATCH_H_
#define KERNELS_DISPATCH_H_

#include <ATen/ATen.h>

#include <vector>

namespace automodeld {

// The dtypes that fused kernels take.
inline std::vector<at::ScalarType> FusedDtypes() { return {at::kFloat, at::kBFloat16, at::kHalf}; }

// Calls run with a value of the C++ type: DispatchFloats("rms_norm", x, [&](auto zero) { Run<decltype(zero)>(...); });
template <typename Run>
void DispatchFloats(const char* what, const at::Tensor& x, const Run& run) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return run(float{});
    case at::kBFloat16:
      return run(at::BFloat16{});
    case at::kHalf:
      return run(at::Half{});
    default:
      TORCH_CHECK(false, what, ": ", x.scalar_type(), " is none of Float, BFloat16, Half");
  }
}

}  // namespace automodeld

#endif  // KERNELS_DISPATCH_H_
