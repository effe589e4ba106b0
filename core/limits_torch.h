// The engine's limits for a model: what was asked for, what the model can do, and what memory holds.
#ifndef CORE_LIMITS_TORCH_H_
#define CORE_LIMITS_TORCH_H_

#include <ATen/ATen.h>
#include <absl/status/statusor.h>

#include <cstdint>
#include <string>

#include "core/auto_model.h"
#include "core/engine/runner.h"
#include "core/model.h"

namespace automodeld {

// What memory has to hold, in bytes.
struct MemoryNeeds {
  int64_t weights = 0;
  int64_t tables = 0;     // of positions: what a model computes from its configuration and keeps
  int64_t available = 0;  // on the device, before the load
};

struct PlannedLimits {
  RunnerLimits limits;
  int64_t kv_bytes = 0;      // of all pages: the cache takes memory as its pages are used, and never more
  int64_t needed_bytes = 0;  // that the load takes for sure: weights, tables, and the pages of one sequence
};

// Without KV cache yet: lengths and counts. `tokenizer_max_length` (0: none) bounds an encoder's default length.
// INVALID_ARGUMENT: a value outside its range; max_model_len is at most the model's positions.
absl::StatusOr<RunnerLimits> PlanLengths(const ModelShape& shape, const EngineConfig& engine, int tokenizer_max_length);

// What engine.kv_cache_dtype, a word that CheckLoadOptions lets pass, means for a model of `model_dtype`.
at::ScalarType KvDtype(const std::string& word, at::ScalarType model_dtype);

// Adds the KV pages that there may ever be: at most what max_num_seqs sequences of max_model_len need, within
// kv_cache_bytes; by default within a quarter of what the weights leave on the CPU, three quarters on a GPU, or one
// sequence if that is more. An encoder has none, but on a GPU steps of up to 16384 tokens where the client names no
// length of its own. RESOURCE_EXHAUSTED: weights and cache are more than there is, or the cache does not hold one
// sequence.
absl::StatusOr<PlannedLimits> PlanMemory(const ModelShape& shape, const EngineConfig& engine, RunnerLimits limits,
                                         const MemoryNeeds& needs, at::ScalarType kv_dtype, bool is_cpu);

// Bytes of the table of RotaryEmbedding that a causal model makes. Making it takes three times as much besides.
int64_t TableBytes(const ModelShape& shape);

}  // namespace automodeld

#endif  // CORE_LIMITS_TORCH_H_
