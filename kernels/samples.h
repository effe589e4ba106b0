// Arguments to try a kernel on: beside each fused version, Samples() lists the shapes that are likely to break it.
//
//   std::vector<Sample> Samples() {
//     return {{"odd width", 3 * 129 * 2, [](const Ops& ops, SampleTensors& make) -> SampleResult {
//                auto [y, scale, sum] = ops.rms_norm(make.Normal({3, 129}), std::nullopt, make.Normal({129}), 1e-6,
//                false); return {y, sum};
//              }}};
//   }
// Tests call `run` with the eager table and with the fused one, with tensors of the same values.
#ifndef KERNELS_SAMPLES_H_
#define KERNELS_SAMPLES_H_

#include <ATen/ATen.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace automodeld {

// Makes the arguments: the same calls give the same values, whatever device and dtype. Values are rounded to `dtype`
// and then held in `held` (float32 for the reference), so that both versions start from equal numbers.
class SampleTensors {
 public:
  SampleTensors(at::Device device, at::ScalarType dtype, at::ScalarType held);

  at::Tensor Normal(at::IntArrayRef sizes, double scale = 1.0);
  at::Tensor Strided(at::IntArrayRef sizes);                // rows apart: a slice of a wider tensor
  at::Tensor Misaligned(at::IntArrayRef sizes);             // data starts one element after an aligned address
  at::Tensor Float(at::IntArrayRef sizes);                  // float32 whatever the dtype, uniform in [0, 1)
  at::Tensor Integers(at::IntArrayRef sizes, int64_t end);  // int64 in [0, end)
  at::Tensor Permutation(int64_t size, int64_t end);        // int64, distinct, from [0, end)
  at::Tensor Filled(at::IntArrayRef sizes, double value);   // of the held dtype

 private:
  at::Tensor Held(const at::Tensor& values) const;

  at::Generator generator_;
  at::Device device_;
  at::ScalarType dtype_, held_;
};

using SampleResult =
    std::vector<at::Tensor>;  // what the kernel gave and wrote, for comparison; undefined entries match

struct Sample {
  std::string name;
  int64_t elements = 0;  // read and written: times the dtype's size the bytes moved, for benches
  std::function<SampleResult(const Ops&, SampleTensors&)> run;
};

}  // namespace automodeld

#endif  // KERNELS_SAMPLES_H_
