#include "core/engine/answer_stream.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

#include "core/status.h"

namespace automodeld {
namespace {

// Of the exception that is being handled.
std::string What() {
  try {
    throw;
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "no std::exception";
  }
}

}  // namespace

AnswerStream::AnswerStream(std::shared_ptr<Request> request, const std::shared_ptr<const Tokenizer>& tokenizer,
                           ModelMetrics* metrics)
    : request_(std::move(request)),
      metrics_(metrics),
      vocab_size_(tokenizer == nullptr ? 0 : tokenizer->vocab_size()),
      stops_(request_->sampling.stop) {
  if (tokenizer != nullptr && request_->kind == Request::Kind::kGenerate) decode_.emplace(tokenizer);
  usage_.prompt_tokens = static_cast<int>(request_->prompt.size());
}

void AnswerStream::Take(Event event) {
  if (finished_) return;
  try {
    PassOn(event);
  } catch (...) {
    spdlog::error("request {}: its sink threw: {}", request_->id, What());
    Finish(absl::InternalError("the answer could not be passed on"), FinishReason::kNone, event.time);
  }
}

void AnswerStream::PassOn(Event& event) {
  first_step_ = event.first_step;
  if (event.output.token >= 0) {
    PassOnToken(event);
  } else if (request_->kind == Request::Kind::kEmbed && event.ended && event.status.ok()) {
    MeasureStart(event);
    request_->sink->OnEmbedding(request_->index, std::move(event.output.embedding));
  }
  if (event.ended) Finish(event.status, event.reason, event.time);
}

void AnswerStream::PassOnToken(Event& event) {
  MeasureToken(event);
  Delta delta;
  delta.token_ids.push_back(event.output.token);
  if (request_->sampling.logprobs >= 0) delta.logprobs.push_back(std::move(event.output.logprob));
  const absl::Status status = AppendText(event, delta.text);
  request_->sink->OnTokens(request_->index, std::move(delta));
  if (!status.ok()) Finish(absl::InternalError(status.message()), FinishReason::kNone, event.time);
  if (stops_.found()) Finish(absl::OkStatus(), FinishReason::kStopSequence, event.time);
}

absl::Status AnswerStream::AppendText(const Event& event, std::string& text) {
  if (!decode_.has_value()) return absl::OkStatus();
  // A model's logits may be wider than its vocabulary: ids of the padding stand for no text.
  if (event.reason != FinishReason::kStop && event.output.token < vocab_size_) {
    ASSIGN_OR_RETURN(const std::string decoded, decode_->Push(event.output.token));
    text += stops_.Push(decoded);
  }
  if (event.ended) {
    text += stops_.Push(decode_->Flush());
    text += stops_.Flush();
  }
  return absl::OkStatus();
}

void AnswerStream::MeasureStart(const Event& event) {
  first_output_ = last_output_ = event.time;
  metrics_->prompt_tokens.Increment(usage_.prompt_tokens);
  metrics_->queue_seconds.Observe(absl::ToDoubleSeconds(event.first_step - request_->arrival));
}

void AnswerStream::MeasureToken(const Event& event) {
  if (usage_.completion_tokens++ == 0) {
    MeasureStart(event);
    metrics_->time_to_first_token_seconds.Observe(absl::ToDoubleSeconds(event.time - request_->arrival));
  } else {
    metrics_->inter_token_seconds.Observe(absl::ToDoubleSeconds(event.time - last_output_));
  }
  last_output_ = event.time;
  metrics_->generated_tokens.Increment();
}

void AnswerStream::Finish(const absl::Status& status, FinishReason reason, absl::Time now) {
  if (std::exchange(finished_, true)) return;
  CompleteUsage(now);
  try {
    request_->sink->OnFinish(request_->index, status, reason, usage_);
  } catch (...) {
    spdlog::error("request {}: its sink threw at the end: {}", request_->id, What());
  }
}

void AnswerStream::CompleteUsage(absl::Time now) {
  usage_.queue = std::min(first_step_, now) - request_->arrival;
  if (first_step_ <= now) usage_.prefill = std::min(first_output_, now) - first_step_;
  if (first_output_ <= now) usage_.decode = last_output_ - first_output_;
}

}  // namespace automodeld
