#include "kernels/host_copy.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/kernels/devices.h"

namespace automodeld {
namespace {

at::Tensor Pinned(int64_t bytes, at::Device device) {
  return at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(!device.is_cpu()));
}

TEST(HostCopy, CopiesEveryNumberOfBytesBothWays) {
  for (const at::Device device : Devices()) {
    for (const int64_t bytes : {0, 1, 7, 8, 9, 100, 2047, 2048, 2049, 65536, 65537, 1000000}) {
      const at::Tensor host = Pinned(bytes, device), back = Pinned(bytes, device).fill_(0xee);
      host.random_(0, 256);
      const at::Tensor there = at::full({bytes + 16}, 0xee, host.options().pinned_memory(false).device(device));
      QueueCopy(host, there.narrow(0, 8, bytes));
      QueueCopy(there.narrow(0, 8, bytes), back);
      const at::Tensor all = there.cpu();  // waits
      EXPECT_TRUE(at::equal(back, host)) << bytes << " bytes, " << device;
      EXPECT_TRUE(all.narrow(0, 0, 8).eq(0xee).all().item<bool>()) << bytes;
      EXPECT_TRUE(all.narrow(0, bytes + 8, 8).eq(0xee).all().item<bool>()) << bytes;
    }
  }
}

// Memory that is let go of is not handed out again before it has been read.
TEST(HostCopy, KeepsHostMemoryUntilItIsCopied) {
  for (const at::Device device : Devices()) {
    std::vector<at::Tensor> copies;
    const at::Tensor ballast = at::ones({2048, 2048}, at::TensorOptions(at::kFloat).device(device));
    for (int i = 0; i < 200; ++i) {
      if (!device.is_cpu()) at::mm(ballast, ballast);  // the copies queue up behind it
      copies.push_back(at::empty({512}, at::TensorOptions(at::kByte).device(device)));
      QueueCopy(Pinned(512, device).fill_(i), copies.back());
    }
    for (int i = 0; i < 200; ++i) EXPECT_TRUE(copies[static_cast<size_t>(i)].eq(i).all().item<bool>()) << i;
  }
}

TEST(HostCopy, RefusesOtherSizes) {
  EXPECT_THROW(QueueCopy(at::zeros({3}), at::zeros({4})), c10::Error);
  EXPECT_THROW(QueueCopy(at::zeros({4, 4}).t(), at::zeros({4, 4})), c10::Error);
}

}  // namespace
}  // namespace automodeld
