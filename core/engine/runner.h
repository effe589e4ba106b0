// The engine's view of a model: it launches steps and gives back their results. model_runner is the real one, over
// libtorch; fake_runner computes tokens from arithmetic, for tests without libtorch.
#ifndef CORE_ENGINE_RUNNER_H_
#define CORE_ENGINE_RUNNER_H_

#include <absl/status/statusor.h>

#include <algorithm>
#include <cstdint>
#include <memory>

#include "core/engine/batch.h"

namespace automodeld {

// A step that was launched. Wait blocks until it has run and gives its results; called once.
class LaunchedStep {
 public:
  virtual ~LaunchedStep() = default;
  virtual absl::StatusOr<StepOutput> Wait() = 0;
};

// What the engine has to know of a loaded model.
struct RunnerLimits {
  int max_model_len = 0;           // tokens of a sequence, prompt and completion
  int max_num_seqs = 0;            // slots
  int max_num_batched_tokens = 0;  // rows of a step
  int page_size = 16;              // tokens
  int num_pages = 0;               // KV pages, the scratch page 0 included; 0: the model keeps no KV (encoder)
  int vocab_size = 0;              // token ids are below it; 0: any
  int look_ahead = 0;              // steps launched before the results of the one before are read: 1 CUDA, 0 CPU
  bool ragged = false;             // inputs run whole and without pages (encoder)

  // Pages that one sequence of max_model_len needs, the scratch page included, if there are so many.
  int least_pages() const {
    const int64_t pages = (int64_t{max_model_len} + page_size - 1) / page_size + 1;
    return static_cast<int>(std::min<int64_t>(pages, num_pages));
  }
};

// Used by one thread, the model's engine thread; construction and destruction may happen on another.
class Runner {
 public:
  virtual ~Runner() = default;
  virtual const RunnerLimits& limits() const = 0;
  // Runs one step. An error says that the step did not run: its requests end with it, the runner stays usable.
  virtual absl::StatusOr<std::unique_ptr<LaunchedStep>> Launch(const Batch& batch) = 0;

  // KV pages below this have memory: at least limits().least_pages() of num_pages. It grows by itself after a request.
  virtual int mapped_pages() const { return limits().num_pages; }
  // Asks for so many mapped pages and returns at once. More come while steps run, as far as memory goes; a request that
  // fell short has to be made again. Fewer may be asked for only while no step is in flight, and mapped_pages() is then
  // what is left. Never fewer than least_pages() are.
  virtual void RequestPages(int /*pages*/) {}
};

}  // namespace automodeld

#endif  // CORE_ENGINE_RUNNER_H_
