// What the arena's memory costs on a GPU:
//   kernels_test --gtest_also_run_disabled_tests --gtest_filter='KvArenaBench.*'
// Copies through the mapping beside copies in memory of libtorch's, and the time in which slabs come and go, on an idle
// GPU and beneath running kernels, the look at what is free included.
#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "kernels/kv_arena.h"

namespace automodeld {
namespace {

constexpr int64_t kPage = 2 << 20, kPagesPerSlab = 16;
constexpr int64_t kNumPages = 8192;  // 16 GiB

using Clock = std::chrono::steady_clock;

double MicrosecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

void Synchronize() { c10::impl::VirtualGuardImpl(at::kCUDA).synchronizeDevice(0); }

// GB/s, read and written: the median of several copies of one half of `x` to the other.
double CopySpeed(const at::Tensor& x) {
  const int64_t half = x.numel() / 2;
  std::vector<double> times;
  for (int i = 0; i < 12; ++i) {
    Synchronize();
    const auto start = Clock::now();
    x.narrow(0, 0, half).copy_(x.narrow(0, half, half));
    Synchronize();
    times.push_back(MicrosecondsSince(start));
  }
  std::sort(times.begin(), times.end());
  return 2e-3 * static_cast<double>(half * x.element_size()) / times[times.size() / 2];
}

// Microseconds a slab; `call`: of Request itself.
double TimeRequest(KvArena& arena, KvRange& range, int64_t pages, double& call) {
  const int64_t before = arena.mapped_bytes(), after = pages * kPage;
  const auto start = Clock::now();
  range.Request(pages);
  call = MicrosecondsSince(start);
  while (arena.mapped_bytes() != after) std::this_thread::yield();
  const int64_t slabs = std::abs(after - before) / kPage / kPagesPerSlab;
  return MicrosecondsSince(start) / static_cast<double>(slabs);
}

TEST(KvArenaBench, DISABLED_SlabsAndCopies) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  const at::Device device(at::kCUDA, 0);
  const auto options = at::TensorOptions(at::kInt).device(device);
  at::Tensor x = at::randn({8192, 8192}, options.dtype(at::kFloat));
  x = at::mm(x, x);
  MemoryBudget budget([] { return static_cast<int64_t>(at::accelerator::getMemoryInfo(0).first); });
  KvArena arena(MakeSlabMemory(device), budget, 0);
  const auto range = arena.Reserve(kPage, 2 * kNumPages);
  auto start = Clock::now();
  ASSERT_TRUE(range->EnsureMapped(kNumPages));
  fmt::print("EnsureMapped of 16 GiB: {:.1f} ms\n", MicrosecondsSince(start) / 1e3);
  const at::Tensor mapped =
      at::for_blob(range->data(), {kNumPages * kPage / 4}).options(options).target_device(device).make_tensor();
  fmt::print("copy within the arena {:.0f} GB/s, within cudaMalloc's {:.0f}, arena again {:.0f}\n", CopySpeed(mapped),
             CopySpeed(at::empty({kNumPages * kPage / 4}, options)), CopySpeed(mapped));
  for (const bool busy : {false, true, false, true}) {
    for (int i = 0; busy && i < 40; ++i) x = at::mm(x, x);
    double up_call = 0, down_call = 0;
    const double up = TimeRequest(arena, *range, kNumPages + 1600, up_call);
    const double down = TimeRequest(arena, *range, kNumPages, down_call);
    fmt::print("{}: a slab comes in {:.0f} us and goes in {:.0f}; the calls took {:.1f} and {:.1f}\n",
               busy ? "busy" : "idle", up, down, up_call, down_call);
    start = Clock::now();
    Synchronize();
    if (busy) fmt::print("  the kernels went on for {:.0f} us\n", MicrosecondsSince(start));
  }
}

}  // namespace
}  // namespace automodeld
