// Threads for work that would hold up a gRPC thread: tokenizing, chat templates, loading.
//
//   WorkerPool workers(4, 512);
//   if (!workers.Post([] { Tokenize(); })) return ResourceExhausted(...);
//
// Any thread.
#ifndef SERVER_WORKER_POOL_H_
#define SERVER_WORKER_POOL_H_

#include <atomic>
#include <boost/asio/thread_pool.hpp>
#include <functional>

namespace automodeld {

class WorkerPool {
 public:
  // At most `max_waiting` tasks wait for a thread.
  WorkerPool(int num_threads, int max_waiting);
  ~WorkerPool();  // runs what was posted

  // False, and the task is dropped, if too many wait. A task may not throw.
  [[nodiscard]] bool Post(std::function<void()> task);

  // However many wait: for what must not be dropped.
  void PostAlways(std::function<void()> task);

  // Runs what was posted, then ends the threads. Nothing may be posted from now on.
  void Join();

  int num_threads() const { return num_threads_; }
  int max_waiting() const { return max_waiting_; }

 private:
  void Add(std::function<void()> task);  // counted already

  const int num_threads_;
  const int max_waiting_;
  std::atomic<int> waiting_ = 0;
  boost::asio::thread_pool threads_;
};

}  // namespace automodeld

#endif  // SERVER_WORKER_POOL_H_
