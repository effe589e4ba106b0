// Recorded device work does what launching it did, with what lies in its inputs then.
#include "kernels/device_graph.h"

#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace automodeld {
namespace {

c10::Stream NewStream() {
  return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStreamFromGlobalPool(c10::Device(at::kCUDA, 0));
}

TEST(DeviceGraph, ACpuRecordsNothing) { EXPECT_EQ(MakeDeviceGraphs(at::kCPU), nullptr); }

class DeviceGraphOnAGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "there is no GPU";
    guard_.reset_stream(NewStream());
    graphs_ = MakeDeviceGraphs(at::Device(at::kCUDA, 0));
    x_ = at::ones({64, 64}, at::TensorOptions(at::kCUDA));
    at::Tensor warm = at::matmul(x_, x_);
  }

  c10::OptionalStreamGuard guard_;
  std::unique_ptr<DeviceGraphs> graphs_;
  at::Tensor x_;
};

TEST_F(DeviceGraphOnAGpu, ReadsItsInputsAtEachLaunch) {
  at::Tensor y;
  const auto graph = graphs_->Record([&] { y = at::matmul(x_, x_).add_(1); });
  for (const float value : {1.0F, 2.0F, -3.0F}) {
    x_.fill_(value);
    graph->Launch();
    EXPECT_TRUE(at::equal(y.cpu(), at::full({64, 64}, 64 * value * value + 1)));
  }
}

TEST_F(DeviceGraphOnAGpu, WhatCannotBeRecordedThrowsAndLeavesTheDeviceUsable) {
  EXPECT_THROW(graphs_->Record([&] { x_.sum().item<float>(); }), c10::Error);
  at::Tensor y;
  const auto graph = graphs_->Record([&] { y = x_ + 1; });
  graph->Launch();
  EXPECT_TRUE(at::equal(y.cpu(), at::full({64, 64}, 2.0F)));
}

TEST_F(DeviceGraphOnAGpu, OtherThreadsMayAllocateMeanwhile) {
  std::atomic<bool> stop = false;
  std::thread other([&] {
    for (int64_t i = 1; !stop; ++i) at::Tensor taken = at::empty({(i % 64 + 1) << 20}, at::TensorOptions(at::kCUDA));
  });
  for (int i = 0; i < 50; ++i) {
    at::Tensor y;
    const auto graph = graphs_->Record([&] { y = at::matmul(x_, x_); });
    graph->Launch();
    EXPECT_TRUE(at::equal(y.cpu(), at::full({64, 64}, 64.0F)));
  }
  stop = true;
  other.join();
}

}  // namespace
}  // namespace automodeld
