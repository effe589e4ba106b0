// Passes a model's events on to the requests' sinks, on a thread of its own, while the next step already runs.
//
//   Delivery delivery(tokenizer, metrics, {.end_early = …, .ended = …});
//   delivery.Post(scheduler.events());    // takes them all
//
// An answer may end here before the scheduler knows (stop string, sink that throws): `end_early` tells it, and its own
// end, which comes later, is not passed on. So OnFinish is called exactly once per request.
//
// Threads: Post from the engine thread; sinks and both callbacks are called on delivery's own, which sleeps when idle.
#ifndef CORE_ENGINE_DELIVERY_H_
#define CORE_ENGINE_DELIVERY_H_

#include <absl/container/flat_hash_map.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/engine/answer_stream.h"
#include "core/engine/event.h"
#include "core/engine/request.h"
#include "core/metrics.h"
#include "core/text/text.h"

namespace automodeld {

class Delivery {
 public:
  struct Callbacks {
    std::function<void(std::shared_ptr<Request>)> end_early;
    std::function<void(int)> ended;  // so many requests are done with: their last events have come
  };

  Delivery(std::shared_ptr<const Tokenizer> tokenizer, ModelMetrics* metrics, Callbacks callbacks);
  ~Delivery();  // passes on what was posted, then joins the thread
  Delivery(const Delivery&) = delete;
  Delivery& operator=(const Delivery&) = delete;

  void Post(std::vector<Event>& events);  // leaves it empty

 private:
  void Run();
  bool TakePosted();          // sleeps until there is something; false: stopping, and nothing is left
  bool PassOn(Event& event);  // whether it was the request's last

  const std::shared_ptr<const Tokenizer> tokenizer_;
  ModelMetrics* const metrics_;
  const Callbacks callbacks_;
  absl::flat_hash_map<const Request*, std::unique_ptr<AnswerStream>> streams_;
  std::vector<Event> taken_;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Event> posted_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace automodeld

#endif  // CORE_ENGINE_DELIVERY_H_
