// A model made of arithmetic: for tests of everything above the runner, without libtorch.
//
//   auto runner = std::make_unique<FakeRunner>(FakeRunnerOptions{.limits = {.max_model_len = 64, …}});
//   std::shared_ptr<FakeSteps> steps = runner->steps();   // outlives the runner
//   steps->Hold();                                        // from now on no step ends …
//   Engine engine("fake", std::move(runner), nullptr, {}, metrics);
//   …
//   steps->AwaitLaunched(1);
//   steps->Release();                                     // … until here
//   EXPECT_THAT(steps->violations(), IsEmpty());
//
// The next token is a function of all tokens before it, by default a hash. The runner stores tokens in simulated KV
// pages and reads them back through BatchItem::pages, so that a page given away too early changes the answer, and keeps
// state per slot like a real one. Every Launch checks the batch: budget, slots in use once, pages disjoint and enough,
// first, context, position and num_generated consistent with what the slot has seen. A breach is written down and is
// the step's error.
//
// Pages get memory as in the real runner, if the options say so: at first least_pages() have it, and the runner, asked
// for more, gives what `grant` says. A page without memory in a batch is a breach, and so is giving memory back beneath
// a step.
#ifndef CORE_ENGINE_FAKE_RUNNER_H_
#define CORE_ENGINE_FAKE_RUNNER_H_

#include <absl/status/status.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "core/engine/batch.h"
#include "core/engine/request.h"
#include "core/engine/runner.h"

namespace automodeld {

// Which token follows `context`, of which the first `request.prompt.size()` tokens are the prompt.
using NextToken = std::function<TokenId(const Request& request, std::span<const TokenId> context)>;

// A hash of the context and, if the temperature is not 0, of the seed: 0..vocab_size-1.
NextToken HashedTokens(int vocab_size);
// HashedTokens, with `eos` in place of the token number `length` (1, 2, …) and never before.
NextToken HashedTokensThenEos(int vocab_size, TokenId eos, int length);
// The script's tokens in turn, the last one for ever.
NextToken ScriptedTokens(std::vector<TokenId> script);

struct FakeRunnerOptions {
  RunnerLimits limits;
  NextToken next_token = HashedTokens(256);
  int hidden_size = 8;
  int64_t fail_launch_at = -1;  // number of the step, from 0, that Launch refuses
  int64_t fail_wait_at = -1;    // number of the step that runs but gives an error
  // Of `mapped` pages to the `wanted` ones, more: how many there are then. Empty: all pages have memory from the start.
  std::function<int(int mapped, int wanted)> grant = nullptr;
};

// What one item of a launched batch was, without the pointers.
struct FakeItem {
  std::string request_id;
  int index = 0;
  int slot = 0;
  bool first = false;
  int position = 0;
  int num_tokens = 0;
  bool last = false;
  int num_pages = 0;
};

struct FakeBatch {
  std::vector<FakeItem> decode, prefill, ragged;
  int num_tokens() const;
};

// The test's hand on the steps: shared with the runner, safe from any thread.
class FakeSteps {
 public:
  // Steps that are launched do not end until Release. Destroying the engine waits for them.
  void Hold();
  void Release();                // lets all end
  void ReleaseSteps(int count);  // lets so many more end

  void AwaitLaunched(int64_t count) const;  // blocks until so many steps were launched in all
  int64_t num_launched() const;
  std::vector<FakeBatch> batches() const;       // all since the start, or since Forget
  std::vector<std::string> violations() const;  // of what Launch checks
  void Forget();                                // the batches so far; long runs call it

 private:
  friend class FakeRunner;
  friend class FakeStep;
  int64_t Launched(FakeBatch batch);
  void Violated(const std::string& what);
  void Ended(int64_t step);
  bool AllEnded() const;
  void AwaitRelease(int64_t step);

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<FakeBatch> batches_;
  std::vector<std::string> violations_;
  int64_t num_launched_ = 0;
  int64_t num_released_ = INT64_MAX;  // steps below this number may end
  int64_t num_ended_ = 0;
};

class FakeRunner : public Runner {
 public:
  explicit FakeRunner(FakeRunnerOptions options);

  const RunnerLimits& limits() const override { return options_.limits; }
  absl::StatusOr<std::unique_ptr<LaunchedStep>> Launch(const Batch& batch) override;
  int mapped_pages() const override { return mapped_pages_; }
  void RequestPages(int pages) override;
  std::shared_ptr<FakeSteps> steps() const { return steps_; }

  // What the request gets, whoever its neighbours are: its completion without preemption, cancels and stop strings …
  static std::vector<TokenId> ExpectedTokens(const Request& request, const RunnerLimits& limits, const NextToken& next);
  // … or its vector.
  static std::vector<float> ExpectedEmbedding(const Request& request, int hidden_size);

 private:
  struct Slot {
    const Request* request = nullptr;
    std::vector<TokenId> tokens;  // seen or sampled
    int computed = 0;             // of them, in pages
    int num_generated = 0;
  };

  absl::Status Check(const Batch& batch);
  absl::Status CheckPages(const BatchItem& item);
  absl::Status CheckSlot(const BatchItem& item, bool decode);
  ItemOutput Run(const BatchItem& item);
  std::vector<TokenId> ReadPages(const BatchItem& item, int num_tokens) const;

  const FakeRunnerOptions options_;
  const std::shared_ptr<FakeSteps> steps_ = std::make_shared<FakeSteps>();
  std::vector<Slot> slots_;
  int mapped_pages_;
  std::vector<TokenId> kv_;                           // [num_pages * page_size]
  std::vector<int64_t> slot_used_at_, page_used_at_;  // by which batch: found twice in one is a breach
  int64_t num_checked_ = 0;
};

}  // namespace automodeld

#endif  // CORE_ENGINE_FAKE_RUNNER_H_
