#include "core/engine/admission.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "core/status.h"

namespace automodeld {
namespace {

int64_t TokensInAllPages(const RunnerLimits& limits) {
  return static_cast<int64_t>(std::max(0, limits.num_pages - 1)) * limits.page_size;
}

// A tokenizer may know more tokens than the model has embeddings for.
absl::Status CheckVocabulary(const Request& request, const RunnerLimits& limits) {
  if (limits.vocab_size == 0) return absl::OkStatus();
  const auto is_unknown = [&](TokenId id) { return id < 0 || id >= limits.vocab_size; };
  const auto unknown = std::ranges::find_if(request.prompt, is_unknown);
  if (unknown == request.prompt.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("prompt: token {} is outside the model's vocabulary, 0..{}", *unknown, limits.vocab_size - 1));
}

absl::Status CheckRagged(int64_t num_tokens, const RunnerLimits& limits) {
  if (num_tokens <= limits.max_num_batched_tokens) return absl::OkStatus();
  return absl::ResourceExhaustedError(fmt::format("prompt: {} tokens can never fit a step of max_num_batched_tokens {}",
                                                  num_tokens, limits.max_num_batched_tokens));
}

absl::Status CheckPaged(const Request& request, const RunnerLimits& limits) {
  const auto num_tokens = static_cast<int64_t>(request.prompt.size());
  if (num_tokens > TokensInAllPages(limits)) {
    return absl::ResourceExhaustedError(fmt::format("prompt: {} tokens can never fit the {} KV pages of {} tokens",
                                                    num_tokens, limits.num_pages - 1, limits.page_size));
  }
  const int room = MaxSequenceLength(limits);
  if (request.kind == Request::Kind::kEmbed || num_tokens < room) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("prompt: {} tokens leave no room for a completion within {} tokens", num_tokens, room));
}

}  // namespace

int MaxSequenceLength(const RunnerLimits& limits) {
  if (limits.ragged) return limits.max_model_len;
  return static_cast<int>(std::min<int64_t>(limits.max_model_len, TokensInAllPages(limits)));
}

int MaxCompletionLength(const Request& request, const RunnerLimits& limits) {
  return std::min(request.sampling.max_tokens, MaxSequenceLength(limits) - static_cast<int>(request.prompt.size()));
}

absl::Status CheckAdmissible(const Request& request, const RunnerLimits& limits) {
  const auto num_tokens = static_cast<int64_t>(request.prompt.size());
  if (limits.ragged && request.kind == Request::Kind::kGenerate) {
    return absl::FailedPreconditionError("the model is an encoder: it embeds but does not generate");
  }
  if (num_tokens == 0) return absl::InvalidArgumentError("prompt: 0 tokens, at least 1 is needed");
  if (num_tokens > limits.max_model_len) {
    return absl::ResourceExhaustedError(
        fmt::format("prompt: {} tokens can never fit max_model_len {}", num_tokens, limits.max_model_len));
  }
  RETURN_IF_ERROR(CheckVocabulary(request, limits));
  return limits.ragged ? CheckRagged(num_tokens, limits) : CheckPaged(request, limits);
}

}  // namespace automodeld
