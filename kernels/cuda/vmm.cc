// The driver's functions are asked of the runtime, so that nothing links to libcuda and a machine without a GPU runs
// the same binary.
#include "kernels/cuda/vmm.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/Exception.h>
#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

namespace automodeld {
namespace {

constexpr unsigned kVersion = 10020;  // CUDA 10.2 brought them

template <typename Function>
bool Find(const char* name, Function& function) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &found, kVersion, cudaEnableDefault, &result);
  if (error != cudaSuccess) static_cast<void>(cudaGetLastError());  // or the next check of a launch finds it
  function = reinterpret_cast<Function>(found);
  return error == cudaSuccess && result == cudaDriverEntryPointSuccess && found != nullptr;
}

struct Driver {
  PFN_cuMemAddressReserve_v10020 reserve = nullptr;
  PFN_cuMemAddressFree_v10020 free = nullptr;
  PFN_cuMemCreate_v10020 create = nullptr;
  PFN_cuMemRelease_v10020 release = nullptr;
  PFN_cuMemMap_v10020 map = nullptr;
  PFN_cuMemUnmap_v10020 unmap = nullptr;
  PFN_cuMemSetAccess_v10020 set_access = nullptr;
  PFN_cuMemGetAllocationGranularity_v10020 granularity = nullptr;

  bool FindAll() {
    return Find("cuMemAddressReserve", reserve) && Find("cuMemAddressFree", free) && Find("cuMemCreate", create) &&
           Find("cuMemRelease", release) && Find("cuMemMap", map) && Find("cuMemUnmap", unmap) &&
           Find("cuMemSetAccess", set_access) && Find("cuMemGetAllocationGranularity", granularity);
  }
};

// The guard alone does nothing where the device is the thread's first choice anyway; the driver wants a context.
class OnDevice {
 public:
  explicit OnDevice(c10::Device device) : guard_(device) { static_cast<void>(cudaSetDevice(device.index())); }

 private:
  const c10::cuda::CUDAGuard guard_;
};

class CudaSlabMemory final : public SlabMemory {
 public:
  CudaSlabMemory(const Driver& driver, c10::Device device) : driver_(driver), device_(device) {
    place_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    place_.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    place_.location.id = device.index();
  }

  // false: the device cannot do it.
  bool Measure() {
    const OnDevice here(device_);
    size_t least = 0;
    if (driver_.granularity(&least, &place_, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) != CUDA_SUCCESS) return false;
    granularity_ = static_cast<int64_t>(least);
    return granularity_ > 0;
  }

  int64_t granularity() const override { return granularity_; }

  std::byte* Reserve(int64_t bytes) override {
    const OnDevice here(device_);
    CUdeviceptr begin = 0;
    const CUresult result = driver_.reserve(&begin, static_cast<size_t>(bytes), 0, 0, 0);
    TORCH_CHECK(result == CUDA_SUCCESS, "cannot reserve ", bytes, " bytes of addresses: CUDA error ", result);
    return reinterpret_cast<std::byte*>(begin);
  }

  void Release(std::byte* begin, int64_t bytes) override {
    const OnDevice here(device_);
    Expect(driver_.free(Pointer(begin), static_cast<size_t>(bytes)), "cuMemAddressFree");
  }

  bool Map(std::byte* begin, int64_t bytes, bool /*lazily*/) override {
    const OnDevice here(device_);
    const auto size = static_cast<size_t>(bytes);
    CUmemGenericAllocationHandle memory = 0;
    if (driver_.create(&memory, size, &place_, 0) != CUDA_SUCCESS) return false;
    const bool mapped = driver_.map(Pointer(begin), size, 0, memory, 0) == CUDA_SUCCESS;
    Expect(driver_.release(memory), "cuMemRelease");  // the mapping keeps it
    if (!mapped) return false;
    const CUmemAccessDesc access = {.location = place_.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    if (driver_.set_access(Pointer(begin), size, &access, 1) == CUDA_SUCCESS) return true;
    Unmap(begin, bytes);
    return false;
  }

  void Unmap(std::byte* begin, int64_t bytes) override {
    const OnDevice here(device_);
    Expect(driver_.unmap(Pointer(begin), static_cast<size_t>(bytes)), "cuMemUnmap");
  }

 private:
  static CUdeviceptr Pointer(std::byte* begin) { return reinterpret_cast<CUdeviceptr>(begin); }

  // Giving back has nobody to tell of a failure, which only a broken context can bring.
  static void Expect(CUresult result, const char* what) {
    if (result != CUDA_SUCCESS) TORCH_WARN(what, ": CUDA error ", result);
  }

  const Driver driver_;
  const c10::Device device_;
  CUmemAllocationProp place_ = {};
  int64_t granularity_ = 0;
};

}  // namespace

std::unique_ptr<SlabMemory> MakeCudaSlabMemory(c10::Device device) {
  Driver driver;
  if (!driver.FindAll()) return nullptr;
  auto memory = std::make_unique<CudaSlabMemory>(driver, device);
  if (!memory->Measure()) return nullptr;
  return memory;
}

}  // namespace automodeld
