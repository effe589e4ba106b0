#include "server/check_generate.h"

#include <fmt/format.h>

#include <limits>

#include "core/status.h"
#include "core/text/text.h"
#include "server/chat_json.h"
#include "server/convert.h"
#include "server/encode_text.h"

namespace automodeld {
namespace {

constexpr int kMaxTokens = 1'048'576;  // of a prompt or a completion

absl::Status CheckLengths(const v1::SamplingParams& params) {
  if (params.has_max_tokens()) RETURN_IF_ERROR(CheckRange("max_tokens", params.max_tokens(), 1, kMaxTokens));
  const int most = params.has_max_tokens() ? params.max_tokens() : kMaxTokens;
  RETURN_IF_ERROR(CheckRange("min_tokens", params.min_tokens(), 0, most));
  if (params.has_n()) RETURN_IF_ERROR(CheckRange("n", params.n(), 1, 16));
  return absl::OkStatus();
}

absl::Status CheckChoice(const v1::SamplingParams& params, int vocab_size) {
  if (params.has_temperature()) RETURN_IF_ERROR(CheckRange("temperature", params.temperature(), 0.0F, 100.0F));
  if (params.has_top_p()) RETURN_IF_ERROR(CheckAbove("top_p", params.top_p(), 0.0F, 1.0F));
  if (params.has_top_k()) RETURN_IF_ERROR(CheckRange("top_k", params.top_k(), 0, vocab_size));
  if (params.has_min_p()) RETURN_IF_ERROR(CheckRange("min_p", params.min_p(), 0.0F, 1.0F));
  if (params.has_logprobs()) RETURN_IF_ERROR(CheckRange("logprobs", params.logprobs(), 0, 20));
  return absl::OkStatus();
}

absl::Status CheckPenalties(const v1::SamplingParams& params) {
  if (params.has_repetition_penalty()) {
    RETURN_IF_ERROR(CheckAbove("repetition_penalty", params.repetition_penalty(), 0.0F, 100.0F));
  }
  RETURN_IF_ERROR(CheckRange("presence_penalty", params.presence_penalty(), -2.0F, 2.0F));
  return CheckRange("frequency_penalty", params.frequency_penalty(), -2.0F, 2.0F);
}

absl::Status CheckLogitBias(const v1::SamplingParams& params, int vocab_size) {
  RETURN_IF_ERROR(CheckSize("logit_bias", params.logit_bias().size(), 0, 1024, "entries"));
  for (const auto& [token, bias] : params.logit_bias()) {
    RETURN_IF_ERROR(CheckRange("logit_bias", token, 0, vocab_size - 1));
    RETURN_IF_ERROR(CheckRange(fmt::format("logit_bias[{}]", token), bias, -100.0F, 100.0F));
  }
  return absl::OkStatus();
}

absl::Status CheckStops(const v1::SamplingParams& params, const ServedModel& model) {
  RETURN_IF_ERROR(CheckSize("stop", static_cast<size_t>(params.stop_size()), 0, 16, "strings"));
  for (int i = 0; i < params.stop_size(); ++i) {
    RETURN_IF_ERROR(CheckSize(fmt::format("stop[{}]", i), params.stop(i).size(), 1, 256, "bytes"));
  }
  if (params.stop_size() > 0) RETURN_IF_ERROR(CheckHasTokenizer(model));
  const std::span<const TokenId> ids(params.stop_token_ids().data(), static_cast<size_t>(params.stop_token_ids_size()));
  return CheckTokenIds("stop_token_ids", ids, 64, model.report.info.vocab_size);
}

absl::Status CheckSampling(const v1::SamplingParams& params, const ServedModel& model) {
  RETURN_IF_ERROR(CheckLengths(params));
  RETURN_IF_ERROR(CheckChoice(params, model.report.info.vocab_size));
  RETURN_IF_ERROR(CheckPenalties(params));
  RETURN_IF_ERROR(CheckLogitBias(params, model.report.info.vocab_size));
  return CheckStops(params, model);
}

absl::Status CheckPrompt(const v1::GenerateRequest& request, const ServedModel& model) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      RETURN_IF_ERROR(CheckSize("text", request.text().size(), 1, kMaxTextBytes, "bytes"));
      RETURN_IF_ERROR(CheckHasTokenizer(model));
      return CheckCanFit(model, request.text());
    case v1::GenerateRequest::kTokenIds: {
      const auto& ids = request.token_ids().ids();
      RETURN_IF_ERROR(CheckSize("token_ids", static_cast<size_t>(ids.size()), 1, kMaxTokens, "tokens"));
      return CheckTokenIds("token_ids", {ids.data(), static_cast<size_t>(ids.size())}, kMaxTokens,
                           model.report.info.vocab_size);
    }
    case v1::GenerateRequest::kChat:
      RETURN_IF_ERROR(CheckHasTokenizer(model));
      return CheckChat(request.chat(), model);
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("prompt: one of text, token_ids and chat must be given");
}

}  // namespace

absl::Status CheckGenerate(const v1::GenerateRequest& request, const ServedModel& model) {
  const ModelInfo& info = model.report.info;
  if (!info.can_generate) {
    return absl::FailedPreconditionError(
        fmt::format("model \"{}\" ({}) does not generate; it answers Embed", info.model, info.architecture));
  }
  RETURN_IF_ERROR(CheckRange("priority", request.priority(), -100, 100));
  RETURN_IF_ERROR(CheckSampling(request.sampling(), model));
  return CheckPrompt(request, model);
}

absl::Status CheckTokenIds(std::string_view field, std::span<const TokenId> ids, size_t max_ids, int vocab_size) {
  RETURN_IF_ERROR(CheckSize(field, ids.size(), 0, max_ids, "tokens"));
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size)
      return CheckRange(fmt::format("{}[{}]", field, i), ids[i], 0, vocab_size - 1);
  }
  return absl::OkStatus();
}

absl::Status CheckHasTokenizer(const ServedModel& model) {
  if (model.tokenizer != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("model \"{}\" has no tokenizer: it takes token_ids only", model.report.info.model));
}

}  // namespace automodeld
