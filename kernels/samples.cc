#include "kernels/samples.h"

#include <ATen/CPUGeneratorImpl.h>

#include <vector>

namespace automodeld {

SampleTensors::SampleTensors(at::Device device, at::ScalarType dtype, at::ScalarType held)
    : generator_(at::detail::createCPUGenerator(/*seed_val=*/1)), device_(device), dtype_(dtype), held_(held) {}

at::Tensor SampleTensors::Held(const at::Tensor& values) const { return values.to(dtype_).to(held_).to(device_); }

at::Tensor SampleTensors::Normal(at::IntArrayRef sizes, double scale) {
  return Held(at::randn(sizes, generator_, at::kFloat) * scale);
}

at::Tensor SampleTensors::Strided(at::IntArrayRef sizes) {
  std::vector<int64_t> wide = sizes.vec();
  const int64_t width = wide.back();
  wide.back() = 2 * width + 3;
  return Normal(wide).narrow(-1, 1, width);
}

at::Tensor SampleTensors::Misaligned(at::IntArrayRef sizes) {
  return Normal({c10::multiply_integers(sizes) + 1}).narrow(0, 1, c10::multiply_integers(sizes)).view(sizes);
}

at::Tensor SampleTensors::Float(at::IntArrayRef sizes) { return at::rand(sizes, generator_, at::kFloat).to(device_); }

at::Tensor SampleTensors::Integers(at::IntArrayRef sizes, int64_t end) {
  return at::randint(end, sizes, generator_, at::kLong).to(device_);
}

at::Tensor SampleTensors::Permutation(int64_t size, int64_t end) {
  return at::randperm(end, generator_, at::kLong).narrow(0, 0, size).to(device_);
}

at::Tensor SampleTensors::Filled(at::IntArrayRef sizes, double value) {
  return Held(at::full(sizes, value, at::kFloat));
}

}  // namespace automodeld
