// A request: what one completion or one embedding asks of a model, and where its answer goes.
//
// Made on the worker pool (tokens in, ranges already checked), handed to Engine::Submit, and answered through its Sink.
// Everything but the cancel flag is constant after Submit, so that the engine, delivery and RPC threads share it
// freely.
#ifndef CORE_ENGINE_REQUEST_H_
#define CORE_ENGINE_REQUEST_H_

#include <absl/status/status.h>
#include <absl/time/time.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace automodeld {

using TokenId = int32_t;

// How the next token is chosen and when to end. Every field is resolved: what the client left out has been taken from
// generation_config or the default. Ranges are those of proto/automodeld/v1/inference.proto.
struct SamplingParams {
  int max_tokens = 16;
  int min_tokens = 0;
  float temperature = 1.0F;  // 0 is greedy
  float top_p = 1.0F;
  int top_k = 0;  // 0 keeps all
  float min_p = 0.0F;
  float repetition_penalty = 1.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  std::vector<std::pair<TokenId, float>> logit_bias;
  uint64_t seed = 0;                    // of Philox(seed, position); completion i of `n` uses seed + i
  std::vector<std::string> stop;        // found by delivery, in text
  std::vector<TokenId> stop_token_ids;  // the client's, and the checkpoint's EOS ids unless ignore_eos
  int logprobs = -1;                    // -1: none; 0: of the chosen token; k: of the k likeliest too

  bool has_penalties() const {
    return repetition_penalty != 1.0F || presence_penalty != 0.0F || frequency_penalty != 0.0F;
  }
};

// How token vectors become one. Names are sentence-transformers'.
enum class Pooling { kMean, kCls, kMax, kLastToken, kWeightedMean, kMeanSqrtLen };

struct EmbedParams {
  Pooling pooling = Pooling::kMean;
  bool normalize = true;
  int dimensions = 0;  // keep the first so many numbers, before normalising; 0 keeps all
};

enum class FinishReason { kNone, kStop, kLength, kStopSequence };

// Log probability of a chosen token and of the likeliest ones, likeliest first.
struct TokenLogprob {
  TokenId token_id = -1;
  float logprob = 0.0F;
  std::vector<std::pair<TokenId, float>> top;
};

// What delivery passes on at once: text that became certain and the tokens that came with it.
struct Delta {
  std::string text;  // valid UTF-8; may be empty while characters or stop strings are held back
  std::vector<TokenId> token_ids;
  std::vector<TokenLogprob> logprobs;  // one per token id if asked for
};

struct RequestUsage {
  int prompt_tokens = 0;
  int completion_tokens = 0;
  int cached_tokens = 0;
  absl::Duration queue;    // arrival to first step
  absl::Duration prefill;  // first step to first token or vector
  absl::Duration decode;   // first token to last
};

// Where a request's answer goes. Called on the model's delivery thread, one call at a time per request; must not block.
// OnTokens any number of times, or OnEmbedding once; then OnFinish exactly once for every request that Submit accepted.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void OnTokens(int index, Delta delta) = 0;
  virtual void OnEmbedding(int index, std::vector<float> values) = 0;  // [dimensions or hidden_size]
  // `status` is not OK for CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE (unloaded) and INTERNAL (the step failed).
  virtual void OnFinish(int index, const absl::Status& status, FinishReason reason, const RequestUsage& usage) = 0;
};

struct Request {
  enum class Kind { kGenerate, kEmbed };

  Kind kind = Kind::kGenerate;
  std::string id;               // of the call, for logs
  int index = 0;                // completion of `n`, or input of an Embed call; handed back to the sink
  std::vector<TokenId> prompt;  // at least one token
  SamplingParams sampling;      // kGenerate
  EmbedParams embed;            // kEmbed
  int priority = 0;             // higher is served first
  absl::Time arrival = absl::InfinitePast();
  absl::Time deadline = absl::InfiniteFuture();
  std::shared_ptr<Sink> sink;

  // Any thread; the request ends within one step.
  void Cancel() { cancelled.store(true, std::memory_order_relaxed); }
  std::atomic<bool> cancelled = false;
};

}  // namespace automodeld

#endif  // CORE_ENGINE_REQUEST_H_
