// What is asked of the code that a GPU runs.
#if __has_include(<cuda_runtime.h>)
#include "kernels/cuda/launch.h"

#include <ATen/cuda/CUDAContext.h>

#include "kernels/cuda/skinny_linear.h"
#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

class CodeOnAGpu : public GpuTest {};

TEST_F(CodeOnAGpu, IsForTheDeviceOrAnOlderOne) {
  const cudaDeviceProp* properties = at::cuda::getDeviceProperties(Best().index());
  EXPECT_GE(CodeCapability(), 80);
  EXPECT_LE(CodeCapability(), 10 * properties->major + properties->minor);
  EXPECT_EQ(HasHopperLaunches(), CodeCapability() >= 90);
  EXPECT_TRUE(!IsHopper(Best()) || CodeCapability() == 90);
}

}  // namespace
}  // namespace automodeld
#endif
