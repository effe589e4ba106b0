// The serving loop of one loaded model: an engine thread that turns requests into steps, and a delivery thread that
// turns their results into text.
//
//   Engine engine("llama", std::move(runner), tokenizer, {.max_queue_size = 512}, metrics.ForModel("llama"));
//   RETURN_IF_ERROR(engine.Submit(request));     // answers come through request->sink
//   engine.Drain(absl::Now() + absl::Seconds(45));
//
// Threads: Submit, Check and Load from any, a sink's included; Drain and Shutdown from any but a sink's. Idle, both of
// the engine's threads sleep.
#ifndef CORE_ENGINE_ENGINE_H_
#define CORE_ENGINE_ENGINE_H_

#include <absl/status/status.h>
#include <absl/time/time.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/engine/delivery.h"
#include "core/engine/request.h"
#include "core/engine/runner.h"
#include "core/engine/scheduler.h"
#include "core/metrics.h"
#include "core/text/text.h"

namespace automodeld {

struct EngineOptions {
  int max_queue_size = 512;  // requests waiting for a slot; one more is RESOURCE_EXHAUSTED
};

// How busy the engine is at this moment.
struct EngineLoad {
  int running = 0;
  int waiting = 0;
  int64_t kv_pages_used = 0;
  int64_t kv_pages_total = 0;   // without the scratch page
  int64_t kv_pages_mapped = 0;  // of them, those that have memory
  bool draining = false;        // takes no new requests
};

class Engine {
 public:
  // `tokenizer` may be null: deltas then carry no text, and stop strings are refused by Submit.
  Engine(std::string model, std::unique_ptr<Runner> runner, std::shared_ptr<const Tokenizer> tokenizer,
         const EngineOptions& options, ModelMetrics* metrics);
  ~Engine();  // Shutdown
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Takes the request (each once), or refuses it: RESOURCE_EXHAUSTED (queue full: `queue is full: 512 requests waiting
  // (--max-queue-size 512)`; or it can never fit: prompt tokens against max_model_len and KV pages, with the numbers),
  // INVALID_ARGUMENT (empty prompt; no room for one token), FAILED_PRECONDITION (Generate on an encoder; stop strings
  // without a tokenizer), UNAVAILABLE (draining). After OK the sink's OnFinish comes exactly once.
  absl::Status Submit(std::shared_ptr<Request> request);

  // All or none: the completions of an `n`, the inputs of an Embed call. A call is never refused for its own size:
  // there is room for all of it as long as there is room for one request more.
  absl::Status Submit(std::span<const std::shared_ptr<Request>> requests);

  // What Submit would refuse whatever the load: lets an Embed call give such an input an error of its own.
  absl::Status Check(const Request& request) const;

  // Refuses new requests, lets the accepted ones finish until `deadline`, then ends those left with UNAVAILABLE.
  // Returns when nothing is left. Drain(absl::InfinitePast()) ends all at once.
  void Drain(absl::Time deadline);

  // Refuses new requests and returns; the accepted ones finish, or end with UNAVAILABLE if `end_all`. `drained` is
  // called once nothing is left, on this thread or on delivery's; it may not call the engine.
  void StartDrain(bool end_all, std::function<void()> drained);

  // Ends what is left with UNAVAILABLE, joins the threads and frees the runner with its memory. The engine stays safe
  // to call: Submit then refuses.
  void Shutdown();

  EngineLoad Load() const;
  const RunnerLimits& limits() const { return limits_; }

 private:
  // A launched step, or the error of one that was not.
  struct Flight {
    absl::StatusOr<std::unique_ptr<LaunchedStep>> step;
    absl::Time launched;
  };

  void Run();
  void Step();
  bool TakeInbox();  // sleeps while there is nothing to do; false: stopping
  bool Launch(const Batch& batch);
  void RequestPages();
  void Land();
  void PassOn();  // what is new, to whoever asks for the load and to delivery
  EngineLoad CurrentLoad() const;
  void ShowLoad(const EngineLoad& load);
  void EndAll();  // under mutex_
  void AwaitEnd(std::unique_lock<std::mutex>& lock, absl::Time deadline);

  const std::string model_;
  const RunnerLimits limits_;
  const EngineOptions options_;
  const bool has_tokenizer_;
  ModelMetrics* const metrics_;

  // Of the engine thread.
  std::unique_ptr<Runner> runner_;
  Scheduler scheduler_;
  std::deque<Flight> in_flight_;
  absl::Duration waited_;  // for results, in this turn of the loop
  int64_t preemptions_shown_ = 0;
  std::vector<std::shared_ptr<Request>> taken_, taken_early_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;   // of the engine thread
  std::condition_variable empty_;  // unfinished_ became 0
  std::vector<std::shared_ptr<Request>> inbox_;
  std::vector<std::shared_ptr<Request>> ended_early_;  // by delivery
  EngineLoad load_;
  int64_t unfinished_ = 0;  // accepted, and the last event not passed on
  std::vector<std::function<void()>> when_drained_;
  bool draining_ = false;
  bool end_all_ = false;
  bool stopping_ = false;

  std::once_flag shutdown_;
  std::unique_ptr<Delivery> delivery_;
  std::thread thread_;
};

}  // namespace automodeld

#endif  // CORE_ENGINE_ENGINE_H_
