#include "server/worker_pool.h"

#include <boost/asio/post.hpp>
#include <utility>

namespace automodeld {

WorkerPool::WorkerPool(int num_threads, int max_waiting)
    : max_waiting_(max_waiting), threads_(static_cast<size_t>(num_threads)) {}

WorkerPool::~WorkerPool() { Join(); }

bool WorkerPool::Post(std::function<void()> task) {
  if (waiting_.fetch_add(1) >= max_waiting_) {
    waiting_.fetch_sub(1);
    return false;
  }
  boost::asio::post(threads_, [this, task = std::move(task)] {
    waiting_.fetch_sub(1);
    task();
  });
  return true;
}

void WorkerPool::Join() { threads_.join(); }

}  // namespace automodeld
