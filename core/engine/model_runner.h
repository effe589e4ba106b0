// The real runner: runs a Model's steps over libtorch, on the CPU or a GPU.
//
// A step: pack Inputs, plan attention, Forward, logits of the rows that end, sample or pool. Decode ids come from the
// slots' last tokens on the device; the host sees them when the step is read. On a GPU the results travel to pinned
// memory behind an event, so that the next step is launched before they are read.
#ifndef CORE_ENGINE_MODEL_RUNNER_H_
#define CORE_ENGINE_MODEL_RUNNER_H_

#include <ATen/ATen.h>
#include <absl/status/statusor.h>

#include <memory>
#include <string>
#include <vector>

#include "core/engine/runner.h"
#include "core/model.h"
#include "core/patch.h"
#include "kernels/attention.h"
#include "kernels/kv_arena.h"
#include "kernels/ops.h"

namespace automodeld {

// All resolved by the factory; `limits.look_ahead` is the runner's own choice.
struct ModelRunnerParts {
  std::unique_ptr<Model> model;
  ModelShape shape;
  Ops ops;
  std::unique_ptr<AttentionBackend> attention;
  at::TensorOptions options;     // of activations
  at::TensorOptions kv_options;  // of the KV cache: any type that it knows, on the same device
  KvArena* kv_arena = nullptr;   // where its pages get their memory; null: all at once, from libtorch
  RunnerLimits limits;
  bool record_graphs = true;  // where device and attention allow it
};

// Makes the KV cache, with memory for one sequence of max_model_len at least, and, where device and attention allow it,
// records decode steps as graphs; that they cannot be recorded is a fallback. RESOURCE_EXHAUSTED: it does not fit.
absl::StatusOr<std::unique_ptr<Runner>> MakeModelRunner(ModelRunnerParts parts, Fallbacks& fallbacks,
                                                        std::vector<std::string>& notes);

}  // namespace automodeld

#endif  // CORE_ENGINE_MODEL_RUNNER_H_
