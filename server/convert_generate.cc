#include "server/convert_generate.h"

#include <absl/random/random.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "core/status.h"
#include "server/chat_json.h"
#include "server/convert.h"
#include "server/encode_text.h"

namespace automodeld {
namespace {

// The request's value if it is there, else the checkpoint's, else ours.
template <typename T>
T Choose(bool given, T value, const std::optional<T>& checkpoint, T ours) {
  return given ? value : checkpoint.value_or(ours);
}

float Temperature(const v1::SamplingParams& params, const GenerationDefaults& checkpoint) {
  const bool greedy = !checkpoint.do_sample.value_or(true);
  return greedy && !params.has_temperature()
             ? 0.0F
             : Choose(params.has_temperature(), params.temperature(), checkpoint.temperature, 1.0F);
}

// With neither a request's nor a checkpoint's limit: what the model's length leaves.
int MaxTokens(const v1::SamplingParams& params, const ServedModel& model, size_t num_prompt_tokens) {
  const int left = model.report.info.max_model_len - static_cast<int>(num_prompt_tokens);
  return Choose(params.has_max_tokens(), params.max_tokens(), model.generation.max_new_tokens, std::max(left, 1));
}

std::vector<std::pair<TokenId, float>> LogitBias(const v1::SamplingParams& params) {
  std::vector<std::pair<TokenId, float>> bias(params.logit_bias().begin(), params.logit_bias().end());
  std::sort(bias.begin(), bias.end());  // a map's order is not the same from run to run
  return bias;
}

std::vector<TokenId> StopTokens(const v1::SamplingParams& params, const GenerationDefaults& checkpoint) {
  std::vector<TokenId> ids(params.stop_token_ids().begin(), params.stop_token_ids().end());
  if (!params.ignore_eos()) {
    ids.insert(ids.end(), checkpoint.eos_token_ids.begin(), checkpoint.eos_token_ids.end());
  }
  return ids;
}

void ToProto(const TokenLogprob& logprob, v1::TokenLogprob* proto) {
  proto->set_token_id(logprob.token_id);
  proto->set_logprob(logprob.logprob);
  for (const auto& [token, value] : logprob.top) {
    auto* candidate = proto->add_top();
    candidate->set_token_id(token);
    candidate->set_logprob(value);
  }
}

}  // namespace

absl::StatusOr<std::vector<TokenId>> EncodePrompt(const v1::GenerateRequest& request, const ServedModel& model) {
  if (request.has_token_ids()) {
    return std::vector<TokenId>(request.token_ids().ids().begin(), request.token_ids().ids().end());
  }
  std::vector<TokenId> ids;
  if (request.has_chat()) {
    ChatOptions options;
    options.tools_json = ChatToolsJson(request.chat());
    ASSIGN_OR_RETURN(const std::string prompt, model.tokenizer->RenderChat(ChatMessagesJson(request.chat()), options));
    RETURN_IF_ERROR(CheckCanFit(model, prompt));
    ASSIGN_OR_RETURN(ids, model.tokenizer->Encode(prompt, /*add_special_tokens=*/false));
  } else {
    ASSIGN_OR_RETURN(ids, model.tokenizer->Encode(request.text(), /*add_special_tokens=*/true));
  }
  if (ids.empty()) return absl::InvalidArgumentError("prompt: it has no tokens");
  return ids;
}

absl::StatusOr<SamplingParams> ToSampling(const v1::SamplingParams& params, const ServedModel& model,
                                          size_t num_prompt_tokens) {
  const GenerationDefaults& checkpoint = model.generation;
  SamplingParams sampling;
  sampling.max_tokens = MaxTokens(params, model, num_prompt_tokens);
  sampling.min_tokens = params.min_tokens();
  RETURN_IF_ERROR(CheckRange("min_tokens", sampling.min_tokens, 0, sampling.max_tokens));
  sampling.temperature = Temperature(params, checkpoint);
  sampling.top_p = Choose(params.has_top_p(), params.top_p(), checkpoint.top_p, 1.0F);
  sampling.top_k =
      std::min(Choose(params.has_top_k(), params.top_k(), checkpoint.top_k, 0), model.report.info.vocab_size);
  sampling.min_p = Choose(params.has_min_p(), params.min_p(), checkpoint.min_p, 0.0F);
  sampling.repetition_penalty =
      Choose(params.has_repetition_penalty(), params.repetition_penalty(), checkpoint.repetition_penalty, 1.0F);
  sampling.presence_penalty = params.presence_penalty();
  sampling.frequency_penalty = params.frequency_penalty();
  sampling.logit_bias = LogitBias(params);
  sampling.seed = params.has_seed() ? params.seed() : absl::Uniform<uint64_t>(absl::BitGen());
  sampling.stop.assign(params.stop().begin(), params.stop().end());
  sampling.stop_token_ids = StopTokens(params, checkpoint);
  sampling.logprobs = params.has_logprobs() ? params.logprobs() : -1;
  return sampling;
}

v1::GenerateResponse ToProto(int index, Delta delta) {
  v1::GenerateResponse response;
  response.set_index(index);
  response.set_text(std::move(delta.text));
  response.mutable_token_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
  for (const TokenLogprob& logprob : delta.logprobs) ToProto(logprob, response.add_logprobs());
  return response;
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return v1::FINISH_REASON_UNSPECIFIED;
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kStopSequence:
      return v1::FINISH_REASON_STOP_SEQUENCE;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

v1::Usage ToProto(const RequestUsage& usage) {
  v1::Usage proto;
  proto.set_prompt_tokens(usage.prompt_tokens);
  proto.set_completion_tokens(usage.completion_tokens);
  proto.set_cached_tokens(usage.cached_tokens);
  proto.set_queue_seconds(absl::ToDoubleSeconds(usage.queue));
  proto.set_prefill_seconds(absl::ToDoubleSeconds(usage.prefill));
  proto.set_decode_seconds(absl::ToDoubleSeconds(usage.decode));
  return proto;
}

}  // namespace automodeld
