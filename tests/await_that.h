// For tests of what other threads do.
#ifndef TESTS_AWAIT_THAT_H_
#define TESTS_AWAIT_THAT_H_

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace automodeld {

// Waits for what other threads bring about, without a clock in the condition.
template <typename Condition>
void AwaitThat(const Condition& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "it never came true";
    std::this_thread::yield();
  }
}

}  // namespace automodeld

#endif  // TESTS_AWAIT_THAT_H_
