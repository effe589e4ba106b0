// Where fused kernels announce themselves. A kernel's file ends with
//
//   const bool registered = RegisterKernel(&Ops::rms_norm, at::kCPU, {at::kFloat, at::kBFloat16}, RmsNorm, Samples);
//
// FindFusedOps then puts RmsNorm into the op table of every model on that device and of those dtypes, and the tests run
// every sample against the eager version. Registration happens before main.
#ifndef KERNELS_REGISTRY_H_
#define KERNELS_REGISTRY_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/ops.h"
#include "kernels/samples.h"

namespace automodeld {

inline std::string RunsOnAll(at::Device /*device*/) { return ""; }

struct Kernel {
  std::string op;                      // "rms_norm"
  at::DeviceType device = at::kCPU;    // its name is the version: "cpu", "cuda"
  std::vector<at::ScalarType> dtypes;  // of the activations
  std::function<void(Ops&)> install;   // puts the function into the table
  std::vector<Sample> (*samples)() = nullptr;
  std::string (*why_not)(at::Device) = RunsOnAll;  // why that device cannot run it; empty if it can
};

std::string VersionName(at::DeviceType device);  // "cpu", "cuda"

std::vector<Kernel>& RegisteredKernels();

template <typename Signature, typename Function>
bool RegisterKernel(Op<Signature> Ops::*op, at::DeviceType device, std::vector<at::ScalarType> dtypes,
                    Function function, std::vector<Sample> (*samples)(),
                    std::string (*why_not)(at::Device) = RunsOnAll) {
  const auto install = [op, device, function](Ops& ops) {
    (ops.*op).function = function;
    (ops.*op).version = VersionName(device);
  };
  RegisteredKernels().push_back({(EagerOps().*op).name, device, std::move(dtypes), install, samples, why_not});
  return true;
}

}  // namespace automodeld

#endif  // KERNELS_REGISTRY_H_
