#include "server/worker_pool.h"

#include <boost/asio/post.hpp>
#include <utility>

namespace automodeld {

WorkerPool::WorkerPool(int num_threads, int max_waiting)
    : num_threads_(num_threads), max_waiting_(max_waiting), threads_(static_cast<size_t>(num_threads)) {}

WorkerPool::~WorkerPool() { Join(); }

bool WorkerPool::Post(std::function<void()> task) {
  if (waiting_.fetch_add(1) >= max_waiting_) {
    waiting_.fetch_sub(1);
    return false;
  }
  Add(std::move(task));
  return true;
}

void WorkerPool::PostAlways(std::function<void()> task) {
  waiting_.fetch_add(1);
  Add(std::move(task));
}

void WorkerPool::Add(std::function<void()> task) {
  boost::asio::post(threads_, [this, task = std::move(task)] {
    waiting_.fetch_sub(1);
    task();
  });
}

void WorkerPool::Join() { threads_.join(); }

}  // namespace automodeld
