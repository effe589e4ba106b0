// Requests and limits for tests of the engine.
#ifndef TESTS_ENGINE_REQUESTS_H_
#define TESTS_ENGINE_REQUESTS_H_

#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "core/engine/request.h"
#include "core/engine/runner.h"

namespace automodeld {

// `start`, start + 1, …: prompts of different starts are different.
inline std::vector<TokenId> Prompt(int num_tokens, TokenId start = 0) {
  std::vector<TokenId> tokens(static_cast<size_t>(num_tokens));
  std::iota(tokens.begin(), tokens.end(), start);
  return tokens;
}

inline std::shared_ptr<Request> GenerateRequest(const std::string& id, int num_prompt_tokens, int max_tokens) {
  auto request = std::make_shared<Request>();
  request->id = id;
  request->prompt = Prompt(num_prompt_tokens, static_cast<TokenId>(std::hash<std::string>()(id) % 1000));
  request->sampling.max_tokens = max_tokens;
  request->arrival = absl::UnixEpoch();
  return request;
}

// Requests "0", "1", …
inline std::vector<std::shared_ptr<Request>> GenerateRequests(int count, int num_prompt_tokens, int max_tokens) {
  std::vector<std::shared_ptr<Request>> requests(static_cast<size_t>(count));
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i] = GenerateRequest(std::to_string(i), num_prompt_tokens, max_tokens);
  }
  return requests;
}

inline std::shared_ptr<Request> EmbedRequest(const std::string& id, int num_tokens) {
  std::shared_ptr<Request> request = GenerateRequest(id, num_tokens, 0);
  request->kind = Request::Kind::kEmbed;
  return request;
}

inline RunnerLimits SmallLimits() {
  return {.max_model_len = 64,
          .max_num_seqs = 4,
          .max_num_batched_tokens = 16,
          .page_size = 4,
          .num_pages = 65,
          .look_ahead = 0};
}

inline RunnerLimits EncoderLimits() {
  return {.max_model_len = 32,
          .max_num_seqs = 8,
          .max_num_batched_tokens = 32,
          .page_size = 4,
          .num_pages = 0,
          .look_ahead = 0,
          .ragged = true};
}

}  // namespace automodeld

#endif  // TESTS_ENGINE_REQUESTS_H_
