#include "core/engine/delivery.h"

#include <iterator>
#include <utility>

namespace automodeld {

Delivery::Delivery(std::shared_ptr<const Tokenizer> tokenizer, ModelMetrics* metrics, Callbacks callbacks)
    : tokenizer_(std::move(tokenizer)),
      metrics_(metrics),
      callbacks_(std::move(callbacks)),
      thread_([this] { Run(); }) {}

Delivery::~Delivery() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Delivery::Post(std::vector<Event>& events) {
  if (events.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    posted_.insert(posted_.end(), std::make_move_iterator(events.begin()), std::make_move_iterator(events.end()));
  }
  events.clear();
  wake_.notify_one();
}

void Delivery::Run() {
  while (TakePosted()) {
    int num_ended = 0;
    for (Event& event : taken_) num_ended += PassOn(event) ? 1 : 0;
    taken_.clear();  // whoever is told of the end finds the requests let go of
    if (num_ended > 0) callbacks_.ended(num_ended);
  }
}

bool Delivery::TakePosted() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [this] { return stopping_ || !posted_.empty(); });
  std::swap(taken_, posted_);
  return !taken_.empty();
}

bool Delivery::PassOn(Event& event) {
  std::unique_ptr<AnswerStream>& stream = streams_[event.request.get()];
  if (stream == nullptr) stream = std::make_unique<AnswerStream>(event.request, tokenizer_, metrics_);
  const bool ended = event.ended;
  const bool finished_before = stream->finished();
  const std::shared_ptr<Request> request = event.request;
  stream->Take(std::move(event));
  if (ended) {
    streams_.erase(request.get());
  } else if (stream->finished() && !finished_before) {
    callbacks_.end_early(request);
  }
  return ended;
}

}  // namespace automodeld
