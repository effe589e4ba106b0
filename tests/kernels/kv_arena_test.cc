#include "kernels/kv_arena.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/device_graph.h"
#include "kernels/kv_cache.h"
#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kPage = 64 * 1024;  // of a KV cache of one layer: 2 x 16 tokens x 8 heads x 64 numbers of 32 bits

void AwaitMapped(const KvRange& range, int64_t pages) {
  while (range.mapped_pages() < pages) std::this_thread::yield();
}

// Memory that is only counted; slabs of 1 MiB.
class CountedMemory final : public SlabMemory {
 public:
  explicit CountedMemory(std::atomic<int64_t>& free) : free_(free) {}

  int64_t granularity() const override { return kMiB; }
  std::byte* Reserve(int64_t bytes) override {
    return static_cast<std::byte*>(std::malloc(static_cast<size_t>(bytes)));
  }
  void Release(std::byte* begin, int64_t) override { std::free(begin); }
  bool Map(std::byte*, int64_t bytes, bool /*lazily*/) override {
    if (free_.fetch_sub(bytes) >= bytes) return true;
    free_.fetch_add(bytes);
    return false;
  }
  void Unmap(std::byte*, int64_t bytes) override { free_.fetch_add(bytes); }

 private:
  std::atomic<int64_t>& free_;
};

class CountedArena : public ::testing::Test {
 protected:
  std::atomic<int64_t> free_{10 * kMiB};
  MemoryBudget budget_{[this] { return free_.load(); }};
  KvArena arena_{std::make_unique<CountedMemory>(free_), budget_, /*reserve_bytes=*/2 * kMiB, /*slab_bytes=*/kMiB};
};

TEST_F(CountedArena, MapsWholeSlabsAsTheyAreAskedFor) {
  const auto range = arena_.Reserve(kPage, 100);
  EXPECT_EQ(range->mapped_pages(), 0);
  ASSERT_TRUE(range->EnsureMapped(17));
  EXPECT_EQ(range->mapped_pages(), 32);
  range->Request(33);
  AwaitMapped(*range, 48);
  EXPECT_EQ(arena_.mapped_bytes(), 3 * kMiB);
}

TEST_F(CountedArena, TheLastSlabIsNoLargerThanTheRange) {
  const auto range = arena_.Reserve(kPage, 17);
  ASSERT_TRUE(range->EnsureMapped(1000));
  EXPECT_EQ(range->mapped_pages(), 17);
  EXPECT_EQ(arena_.mapped_bytes(), 2 * kMiB);
}

TEST_F(CountedArena, PagesThatLieAcrossSlabsCountWhenAllOfThemIsMapped) {
  const auto range = arena_.Reserve(3 * kMiB / 2, 4);
  ASSERT_TRUE(range->EnsureMapped(1));
  EXPECT_EQ(range->mapped_pages(), 1);
  EXPECT_EQ(arena_.mapped_bytes(), 2 * kMiB);
}

TEST_F(CountedArena, GrowthLeavesTheReserveAndSaysHowFarItCame) {
  const auto range = arena_.Reserve(kMiB, 20);
  range->Request(20);
  AwaitMapped(*range, 8);
  EXPECT_FALSE(range->EnsureMapped(11));
  EXPECT_EQ(range->mapped_pages(), 10);  // what was promised to a load may use the reserve
  EXPECT_EQ(free_, 0);
}

TEST_F(CountedArena, GivesBackFromTheTopButNotWhatWasEnsured) {
  const auto range = arena_.Reserve(kMiB, 20);
  ASSERT_TRUE(range->EnsureMapped(3));
  range->Request(7);
  AwaitMapped(*range, 7);
  range->Request(5);
  EXPECT_EQ(range->mapped_pages(), 5);
  range->Request(0);
  EXPECT_EQ(range->mapped_pages(), 3);
  while (arena_.mapped_bytes() > 3 * kMiB) std::this_thread::yield();
  EXPECT_EQ(free_, 7 * kMiB);
}

TEST_F(CountedArena, AnUnloadedModelsMemoryIsThereForOthers) {
  auto first = arena_.Reserve(kMiB, 8);
  ASSERT_TRUE(first->EnsureMapped(8));
  const auto second = arena_.Reserve(kMiB, 8);
  EXPECT_FALSE(second->EnsureMapped(3));
  EXPECT_EQ(second->mapped_pages(), 2);
  first.reset();
  EXPECT_TRUE(second->EnsureMapped(8));
  EXPECT_EQ(arena_.mapped_bytes(), 8 * kMiB);
}

TEST_F(CountedArena, GrowthLeavesWhatIsPromisedToALoad) {
  const auto range = arena_.Reserve(kMiB, 20);
  const auto claim = budget_.TryClaim(5 * kMiB);
  ASSERT_TRUE(claim.has_value());
  range->Request(20);
  AwaitMapped(*range, 3);
  EXPECT_FALSE(range->EnsureMapped(20));  // the thread has given up growing by now
  EXPECT_EQ(free_, 0);
}

// Several models that ask, take back and go at random, each on its own thread, while slabs are mapped beneath them.
TEST_F(CountedArena, RandomRequestsOfSeveralModelsNeverOverdrawAndLeaveNothing) {
  const auto serve = [this](unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 40; ++i) {
      const auto range = arena_.Reserve(kPage, 16 * 6);
      const auto least = static_cast<int64_t>(random() % 20);
      const bool ensured = range->EnsureMapped(least);
      for (int k = 0; k < 50; ++k) {
        const auto pages = static_cast<int64_t>(random() % 120);
        range->Request(pages);
        EXPECT_GE(range->mapped_pages(), ensured ? least : 0);
        EXPECT_GE(free_, 0);
        if (k % 10 == 0) std::this_thread::yield();
      }
    }
  };
  std::vector<std::thread> models;
  for (unsigned seed = 0; seed < 3; ++seed) models.emplace_back(serve, seed);
  for (std::thread& model : models) model.join();
  EXPECT_EQ(arena_.mapped_bytes(), 0);
  EXPECT_EQ(free_, 10 * kMiB);
  EXPECT_EQ(budget_.Available(), 10 * kMiB);
}

// The device's real memory; growth keeps no reserve.
class RealArena {
 public:
  explicit RealArena(at::Device device)
      : budget_([] { return int64_t{1} << 60; }), arena_(MakeSlabMemory(device), budget_, 0) {}
  KvArena& operator*() { return arena_; }
  KvArena* operator->() { return &arena_; }

 private:
  MemoryBudget budget_;
  KvArena arena_;
};

// Whether the kernel can read there, without a signal if not.
bool IsReadable(const std::byte* at) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const bool read = write(ends[1], at, 1) == 1;
  close(ends[0]);
  close(ends[1]);
  return read;
}

int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(KvArena, ACpuPageWithoutMemoryFaults) {
  RealArena arena(at::kCPU);
  const auto range = arena->Reserve(kPage, 4096);
  ASSERT_TRUE(range->EnsureMapped(1));
  const int64_t mapped = range->mapped_pages();
  ASSERT_LT(mapped, 4096);
  EXPECT_TRUE(IsReadable(range->data() + mapped * kPage - 1));
  EXPECT_FALSE(IsReadable(range->data() + mapped * kPage));
  range->Request(mapped + 1);
  AwaitMapped(*range, mapped + 1);
  EXPECT_TRUE(IsReadable(range->data() + mapped * kPage));
}

TEST(KvArena, CpuMemoryComesAsItIsWrittenOrWithGrowthUntilItIsGivenBack) {
  RealArena arena(at::kCPU);
  const int64_t before = ResidentBytes();
  auto range = arena->Reserve(kPage, 16 * 1024);  // 1 GiB of addresses
  EXPECT_LT(ResidentBytes(), before + 8 * kMiB);
  ASSERT_TRUE(range->EnsureMapped(16 * 128));
  EXPECT_LT(ResidentBytes(), before + 8 * kMiB);
  EXPECT_EQ(arena->outstanding_bytes(), 128 * kMiB);  // promised: the budget counts it as taken
  std::memset(range->data(), 1, 96 * kMiB);
  while (arena->outstanding_bytes() > 32 * kMiB) std::this_thread::yield();
  std::memset(range->data() + 96 * kMiB, 1, 32 * kMiB);
  while (arena->outstanding_bytes() > 0) std::this_thread::yield();
  EXPECT_GT(ResidentBytes(), before + 120 * kMiB);
  range->Request(16 * 192);
  AwaitMapped(*range, 16 * 192);
  EXPECT_GT(ResidentBytes(), before + 184 * kMiB);
  range->Request(0);
  while (arena->mapped_bytes() > 128 * kMiB) std::this_thread::yield();
  EXPECT_LT(ResidentBytes(), before + 136 * kMiB);
  range.reset();
  EXPECT_LT(ResidentBytes(), before + 8 * kMiB);
}

TEST(KvArena, CpuMemoryThatNeverCameIsNotOwedAnyMore) {
  RealArena arena(at::kCPU);
  auto range = arena->Reserve(kPage, 16 * 1024);
  ASSERT_TRUE(range->EnsureMapped(16 * 64));
  EXPECT_EQ(arena->outstanding_bytes(), 64 * kMiB);
  range.reset();
  EXPECT_EQ(arena->outstanding_bytes(), 0);
}

constexpr int64_t kHeads = 8, kHeadDim = 64;

// A cache of one layer and pages of kPage bytes.
KvCache CacheIn(KvArena* arena, int64_t least_pages, int64_t num_pages, at::Device device) {
  return {arena, least_pages, num_pages, 1, 16, kHeads, kHeadDim, at::TensorOptions(at::kFloat).device(device)};
}

TEST(KvArena, AKvCacheReadsAndWritesEveryMappedPageBeforeAndAfterGrowth) {
  for (const at::Device device : Devices()) {
    RealArena arena(device);
    KvCache cache = CacheIn(&*arena, 600, 5000, device);
    ASSERT_LT(cache.mapped_pages(), 5000);
    const at::Tensor keys = cache.keys(0), values = cache.values(0);
    for (const int64_t wanted : {600, 2000}) {
      cache.RequestPages(wanted);
      while (cache.mapped_pages() < wanted) std::this_thread::yield();
      const int64_t pages = cache.mapped_pages();
      const at::Tensor k = at::randn({pages, 16, kHeads, kHeadDim}, keys.options());
      keys.narrow(0, 0, pages).copy_(k);
      values.narrow(0, 0, pages).copy_(-k);
      EXPECT_TRUE(at::equal(keys.narrow(0, 0, pages), k)) << device;
      EXPECT_TRUE(at::equal(values.narrow(0, 0, pages), -k)) << device;
    }
  }
}

TEST(KvArena, AViewKeepsTheMemoryOfItsCache) {
  RealArena arena(at::kCPU);
  at::Tensor keys = CacheIn(&*arena, 4, 8, at::kCPU).keys(0);
  keys.zero_();
  EXPECT_EQ(keys.sum().item<float>(), 0.0F);
  EXPECT_GT(arena->mapped_bytes(), 0);
  keys.reset();
  EXPECT_EQ(arena->mapped_bytes(), 0);
}

TEST(KvArena, ACacheThatDoesNotFitSaysWhatItFound) {
  std::atomic<int64_t> free = 3 * kMiB;
  MemoryBudget budget([&] { return free.load(); });
  KvArena arena(std::make_unique<CountedMemory>(free), budget, 0, kMiB);
  try {
    CacheIn(&arena, 64, 100, at::kCPU);
    FAIL();
  } catch (const c10::Error& error) {
    EXPECT_STREQ(error.what_without_backtrace(),
                 "64 pages of 65536 bytes are needed, memory for 48 was found, and 0 bytes are left");
  }
  EXPECT_EQ(free, 3 * kMiB);
}

int64_t FreeOn(at::Device device) { return static_cast<int64_t>(at::accelerator::getMemoryInfo(device.index()).first); }

TEST(KvArena, GpuMemoryIsTakenAsItIsMappedAndGivenBack) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  const at::Device device(at::kCUDA, 0);
  RealArena arena(device);
  const int64_t before = FreeOn(device);
  auto range = arena->Reserve(2 * kMiB, 100'000);  // 195 GiB of addresses
  EXPECT_NEAR(static_cast<double>(FreeOn(device)), static_cast<double>(before), 16.0 * kMiB);
  ASSERT_TRUE(range->EnsureMapped(512));
  EXPECT_LE(FreeOn(device), before - 1024 * kMiB);
  range->Request(2048);
  AwaitMapped(*range, 2048);
  range->Request(512);
  while (arena->mapped_bytes() > 1024 * kMiB) std::this_thread::yield();
  EXPECT_NEAR(static_cast<double>(FreeOn(device)), static_cast<double>(before - 1024 * kMiB), 16.0 * kMiB);
  range.reset();
  EXPECT_NEAR(static_cast<double>(FreeOn(device)), static_cast<double>(before), 16.0 * kMiB);
}

TEST(KvArena, GrowsBeneathARunningKernelAndDoesNotWaitForIt) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  const at::Device device(at::kCUDA, 0);
  RealArena arena(device);
  KvCache cache = CacheIn(&*arena, 512, 1 << 20, device);
  const at::Tensor keys = cache.keys(0);
  at::Tensor x = at::randn({8192, 8192}, keys.options());
  x = at::mm(x, x);  // loads the library
  const c10::impl::VirtualGuardImpl impl(device.type());
  impl.synchronizeDevice(device.index());
  for (int i = 0; i < 20; ++i) {  // 20 ms each and more
    x = at::mm(x, x);
    keys.narrow(0, 0, 512).fill_(i);
  }
  c10::Event done(device.type());
  done.record(impl.getStream(device));
  cache.RequestPages(16 * 1024);  // 1 GiB
  while (cache.mapped_pages() < 16 * 1024) std::this_thread::yield();
  EXPECT_FALSE(done.query());
  keys.narrow(0, 15 * 1024, 1024).fill_(7);
  EXPECT_EQ(keys[16 * 1024 - 1][15][7][63].item<float>(), 7.0F);
  EXPECT_EQ(keys[511][15][7][63].item<float>(), 19.0F);
}

TEST(KvArena, AGraphRecordedBeforeGrowthReadsAndWritesTheNewPages) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU";
  const at::Device device(at::kCUDA, 0);
  const c10::impl::VirtualGuardImpl impl(device.type());
  const c10::StreamGuard on_stream(impl.getStreamFromGlobalPool(device));
  const std::unique_ptr<DeviceGraphs> graphs = MakeDeviceGraphs(device);
  if (graphs == nullptr) GTEST_SKIP() << "this build records no graphs";
  RealArena arena(device);
  KvCache cache = CacheIn(&*arena, 512, 100'000, device);
  const at::Tensor keys = cache.keys(0), values = cache.values(0);
  const at::Tensor pages = at::zeros({4}, at::TensorOptions(at::kLong).device(device));
  at::Tensor sums;
  const auto work = [&] {
    values.index_copy_(0, pages, keys.index_select(0, pages) * 2);
    sums = values.index_select(0, pages).sum({1, 2, 3});
  };
  keys[0].zero_();
  work();
  const auto graph = graphs->Record(work);
  const int64_t last = 50'000;
  cache.RequestPages(last + 1);
  while (cache.mapped_pages() <= last) std::this_thread::yield();
  keys.narrow(0, last - 3, 4).fill_(1);
  pages.copy_(at::arange(last - 3, last + 1));
  graph->Launch();
  EXPECT_TRUE(at::equal(sums, at::full_like(sums, 2.0 * 16 * kHeads * kHeadDim)));
}

}  // namespace
}  // namespace automodeld
