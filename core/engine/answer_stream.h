// One request's answer on its way to the client: text from tokens, stop strings, usage, metrics, calls of the Sink.
//
//   AnswerStream stream(event.request, tokenizer, metrics);
//   stream.Take(event);            // calls sink->OnTokens, OnEmbedding, OnFinish
//   if (stream.finished()) …       // maybe before the last event came: a stop string was found
//
// Used by the delivery thread only. A sink that throws and a token that cannot be decoded finish the answer with
// INTERNAL; nothing is thrown from here.
#ifndef CORE_ENGINE_ANSWER_STREAM_H_
#define CORE_ENGINE_ANSWER_STREAM_H_

#include <absl/status/status.h>
#include <absl/time/time.h>

#include <memory>
#include <optional>
#include <string>

#include "core/engine/event.h"
#include "core/engine/request.h"
#include "core/engine/stop_finder.h"
#include "core/metrics.h"
#include "core/text/text.h"

namespace automodeld {

class AnswerStream {
 public:
  // `tokenizer` may be null: deltas then have no text.
  AnswerStream(std::shared_ptr<Request> request, const std::shared_ptr<const Tokenizer>& tokenizer,
               ModelMetrics* metrics);

  // Passes the event on; events after OnFinish are ignored. The token that ended a completion by stop_token_ids is in
  // token_ids, its text is not in the text.
  void Take(Event event);

  bool finished() const { return finished_; }

 private:
  void PassOn(Event& event);
  void PassOnToken(Event& event);
  absl::Status AppendText(const Event& event, std::string& text);
  void MeasureStart(const Event& event);
  void MeasureToken(const Event& event);
  void Finish(const absl::Status& status, FinishReason reason, absl::Time now);
  void CompleteUsage(absl::Time now);

  const std::shared_ptr<Request> request_;
  ModelMetrics* const metrics_;
  const int vocab_size_;
  std::optional<DecodeStream> decode_;
  StopFinder stops_;
  RequestUsage usage_;
  absl::Time first_step_ = absl::InfiniteFuture();
  absl::Time first_output_ = absl::InfiniteFuture();
  absl::Time last_output_ = absl::InfiniteFuture();
  bool finished_ = false;
};

}  // namespace automodeld

#endif  // CORE_ENGINE_ANSWER_STREAM_H_
