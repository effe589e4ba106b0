// A sink that keeps what it is told, and can be waited for.
#ifndef TESTS_ENGINE_COLLECTING_SINK_H_
#define TESTS_ENGINE_COLLECTING_SINK_H_

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/engine/request.h"

namespace automodeld {

struct Answer {
  std::string text;
  std::vector<std::string> deltas;  // texts of the single calls
  std::vector<TokenId> token_ids;
  std::vector<TokenLogprob> logprobs;
  std::vector<float> embedding;
  int num_finishes = 0;
  absl::Status status;
  FinishReason reason = FinishReason::kNone;
  RequestUsage usage;
};

class CollectingSink : public Sink {
 public:
  // Called at the beginning of each OnTokens, on the delivery thread and without a lock held.
  std::function<void(int index)> on_tokens = [](int) {};

  void OnTokens(int index, Delta delta) override {
    on_tokens(index);
    const std::lock_guard lock(mutex_);
    Answer& answer = answers_[index];
    answer.text += delta.text;
    answer.deltas.push_back(std::move(delta.text));
    answer.token_ids.insert(answer.token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
    answer.logprobs.insert(answer.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
    changed_.notify_all();
  }

  void OnEmbedding(int index, std::vector<float> values) override {
    const std::lock_guard lock(mutex_);
    answers_[index].embedding = std::move(values);
  }

  void OnFinish(int index, const absl::Status& status, FinishReason reason, const RequestUsage& usage) override {
    const std::lock_guard lock(mutex_);
    Answer& answer = answers_[index];
    ++answer.num_finishes;
    answer.status = status;
    answer.reason = reason;
    answer.usage = usage;
    changed_.notify_all();
  }

  Answer AwaitFinish(int index = 0) {
    return Await(index, [](const Answer& answer) { return answer.num_finishes > 0; });
  }

  Answer AwaitTokens(size_t count, int index = 0) {
    return Await(index, [count](const Answer& answer) { return answer.token_ids.size() >= count; });
  }

  Answer answer(int index = 0) {
    return Await(index, [](const Answer&) { return true; });
  }

 private:
  Answer Await(int index, const std::function<bool(const Answer&)>& done) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done(answers_[index]); });
    return answers_[index];
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int, Answer> answers_;
};

}  // namespace automodeld

#endif  // TESTS_ENGINE_COLLECTING_SINK_H_
