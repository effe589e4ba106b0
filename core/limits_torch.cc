#include "core/limits_torch.h"

#include <algorithm>
#include <limits>

#include "core/status.h"

namespace automodeld {

namespace {

constexpr int64_t kMaxLength = 1 << 20;
constexpr int kDefaultSeqs = 256;
constexpr int kMaxSeqs = 4096;
constexpr int64_t kDefaultBatchedTokens = 2048;
// Of an encoder on a GPU, whose steps keep it busy only when they are long: inputs of 8 tokens fill one of two steps in
// flight.
constexpr int64_t kGpuEncoderTokens = 16384;
constexpr int kGpuEncoderSeqs = 4096;

// The value, or `default_value` where it is 0.
absl::StatusOr<int> InRange(const char* field, int value, int64_t default_value, int64_t low, int64_t high) {
  if (value == 0) return static_cast<int>(default_value);
  if (low <= value && value <= high) return value;
  return absl::InvalidArgumentError(fmt::format("engine.{}: {} is outside {}..{}", field, value, low, high));
}

int64_t PagesFor(int64_t tokens, int64_t page_size) { return (tokens + page_size - 1) / page_size; }

int64_t PageBytes(const ModelShape& shape, int64_t page_size, at::ScalarType dtype) {
  const auto width = static_cast<int64_t>(c10::elementSize(dtype));
  return shape.num_layers * 2 * page_size * shape.num_kv_heads * shape.head_dim * width;
}

// What making the tables takes besides is free again before the cache is made.
int64_t MakingBytes(const MemoryNeeds& needs, int64_t kv_bytes) {
  return std::max<int64_t>(3 * needs.tables - kv_bytes, 0);
}

int64_t NeededBytes(const MemoryNeeds& needs, int64_t kv_bytes) {
  return needs.weights + needs.tables + kv_bytes + MakingBytes(needs, kv_bytes);
}

absl::Status CheckFits(const MemoryNeeds& needs, int64_t kv_bytes) {
  const int64_t making = MakingBytes(needs, kv_bytes);
  const int64_t needed = NeededBytes(needs, kv_bytes);
  if (needed <= needs.available) return absl::OkStatus();
  return absl::ResourceExhaustedError(fmt::format(
      "the model needs {} bytes (weights {}, tables {}, making tables {}, KV cache {}), but {} are available{}", needed,
      needs.weights, needs.tables, making, kv_bytes, needs.available,
      kv_bytes > 0 ? "; a lower engine.max_model_len or engine.kv_cache_bytes needs less" : ""));
}

// `least`: bytes of one sequence.
int64_t KvBudget(const EngineConfig& engine, const MemoryNeeds& needs, int64_t least, bool is_cpu) {
  if (engine.kv_cache_bytes > 0) return engine.kv_cache_bytes;
  const int64_t left = needs.available - needs.weights - needs.tables;
  return std::max(is_cpu ? left / 4 : left / 4 * 3, least);
}

// Of an encoder's step: what a layer holds at its widest is about 16 times its input, in float32.
int64_t ActivationBytes(const ModelShape& shape, int64_t tokens) {
  return tokens * 16 * shape.hidden_size * static_cast<int64_t>(sizeof(float));
}

// Longer steps where they were not asked for and activations take no more than a quarter of what the weights leave.
RunnerLimits ForGpuEncoder(const ModelShape& shape, const EngineConfig& engine, const MemoryNeeds& needs,
                           RunnerLimits limits) {
  if (engine.max_num_seqs == 0) limits.max_num_seqs = kGpuEncoderSeqs;
  if (engine.max_num_batched_tokens != 0) return limits;
  const int64_t left = needs.available - needs.weights - needs.tables;
  int64_t tokens = kGpuEncoderTokens;
  while (tokens > limits.max_num_batched_tokens && ActivationBytes(shape, tokens) > left / 4) tokens /= 2;
  limits.max_num_batched_tokens = std::max(limits.max_num_batched_tokens, static_cast<int>(tokens));
  return limits;
}

}  // namespace

absl::StatusOr<RunnerLimits> PlanLengths(const ModelShape& shape, const EngineConfig& engine,
                                         int tokenizer_max_length) {
  RunnerLimits limits;
  limits.ragged = !shape.causal;
  limits.vocab_size = static_cast<int>(shape.vocab_size);
  const int64_t longest = std::min(shape.max_positions, kMaxLength);
  const bool bounded = !shape.causal && tokenizer_max_length > 0;
  const int64_t usual = bounded ? std::min<int64_t>(longest, tokenizer_max_length) : longest;
  ASSIGN_OR_RETURN(limits.max_model_len, InRange("max_model_len", engine.max_model_len, usual, 1, longest));
  ASSIGN_OR_RETURN(limits.max_num_seqs, InRange("max_num_seqs", engine.max_num_seqs, kDefaultSeqs, 1, kMaxSeqs));
  // An encoder's input is never cut, so a step must hold the longest one.
  const int64_t least = limits.ragged ? limits.max_model_len : 1;
  ASSIGN_OR_RETURN(limits.max_num_batched_tokens, InRange("max_num_batched_tokens", engine.max_num_batched_tokens,
                                                          std::max(kDefaultBatchedTokens, least), least, kMaxLength));
  return limits;
}

at::ScalarType KvDtype(const std::string& word, at::ScalarType model_dtype) {
  if (word == "float32") return at::kFloat;
  if (word == "float16") return at::kHalf;
  if (word == "bfloat16") return at::kBFloat16;
  return word == "auto" ? model_dtype : at::kFloat8_e4m3fn;
}

absl::StatusOr<PlannedLimits> PlanMemory(const ModelShape& shape, const EngineConfig& engine, RunnerLimits limits,
                                         const MemoryNeeds& needs, at::ScalarType kv_dtype, bool is_cpu) {
  if (engine.kv_cache_bytes < 0) {
    return absl::InvalidArgumentError(fmt::format("engine.kv_cache_bytes: {} is below 1", engine.kv_cache_bytes));
  }
  RETURN_IF_ERROR(CheckFits(needs, 0));
  if (limits.ragged) {
    return PlannedLimits{is_cpu ? limits : ForGpuEncoder(shape, engine, needs, limits), 0, NeededBytes(needs, 0)};
  }
  const int64_t page_bytes = PageBytes(shape, limits.page_size, kv_dtype);
  const int64_t least = PagesFor(limits.max_model_len, limits.page_size) + 1;  // page 0 is scratch
  const int64_t budget = KvBudget(engine, needs, least * page_bytes, is_cpu);
  const int64_t most = std::min<int64_t>((least - 1) * limits.max_num_seqs + 1, std::numeric_limits<int>::max());
  const int64_t pages = std::min(most, budget / page_bytes);
  if (pages < least) {
    return absl::ResourceExhaustedError(fmt::format(
        "engine.kv_cache_bytes: {} bytes hold {} tokens; one sequence of max_model_len {} needs {} bytes", budget,
        std::max<int64_t>(pages - 1, 0) * limits.page_size, limits.max_model_len, least * page_bytes));
  }
  limits.num_pages = static_cast<int>(pages);
  RETURN_IF_ERROR(CheckFits(needs, pages * page_bytes));
  return PlannedLimits{limits, pages * page_bytes, NeededBytes(needs, least * page_bytes)};
}

int64_t TableBytes(const ModelShape& shape) {
  return shape.causal ? shape.max_positions * shape.head_dim * static_cast<int64_t>(sizeof(float)) : 0;
}

}  // namespace automodeld
