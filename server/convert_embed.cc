#include "server/convert_embed.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "core/status.h"
#include "core/text/text.h"
#include "server/check_generate.h"
#include "server/convert.h"
#include "server/encode_text.h"

namespace automodeld {
namespace {

constexpr size_t kMaxInputs = 2048;
constexpr size_t kMaxInputTokens = 1'048'576;

absl::StatusOr<Pooling> ToPooling(const std::string& name, Pooling checkpoint) {
  static const std::map<std::string, Pooling> kNames = {
      {"mean", Pooling::kMean},
      {"cls", Pooling::kCls},
      {"max", Pooling::kMax},
      {"lasttoken", Pooling::kLastToken},
      {"weightedmean", Pooling::kWeightedMean},
      {"mean_sqrt_len_tokens", Pooling::kMeanSqrtLen},
  };
  if (name.empty()) return checkpoint;
  const auto found = kNames.find(name);
  if (found != kNames.end()) return found->second;
  return absl::InvalidArgumentError(
      "pooling: it is none of mean, cls, max, lasttoken, weightedmean, mean_sqrt_len_tokens");
}

absl::StatusOr<std::string> Prefix(const std::string& prompt_name, const EmbeddingDefaults& checkpoint) {
  const std::string& name = prompt_name.empty() ? checkpoint.default_prompt_name : prompt_name;
  const auto found = checkpoint.prompts.find(name);
  if (found != checkpoint.prompts.end()) return found->second;
  if (prompt_name.empty()) return "";
  std::vector<std::string> names;
  for (const auto& [known, text] : checkpoint.prompts) names.push_back(known);
  return absl::InvalidArgumentError(
      fmt::format("prompt_name: it is none of the checkpoint's {} prompts: {}", names.size(), fmt::join(names, ", ")));
}

absl::StatusOr<v1::EmbeddingEncoding> ToEncoding(v1::EmbeddingEncoding encoding) {
  if (encoding == v1::EMBEDDING_ENCODING_UNSPECIFIED) return v1::EMBEDDING_ENCODING_FLOAT32;
  if (v1::EmbeddingEncoding_IsValid(encoding)) return encoding;
  return CheckRange("encoding", static_cast<int>(encoding), 0, static_cast<int>(v1::EmbeddingEncoding_MAX));
}

size_t MaxTokens(const ServedModel& model) {
  const int model_len = model.report.info.max_model_len;
  const int checkpoint = model.embedding.max_seq_length;
  return static_cast<size_t>(checkpoint > 0 ? std::min(checkpoint, model_len) : model_len);
}

absl::StatusOr<std::vector<TokenId>> EncodeInputText(const std::string& text, const EmbedPlan& plan,
                                                     const ServedModel& model) {
  RETURN_IF_ERROR(CheckHasTokenizer(model));
  RETURN_IF_ERROR(CheckSize("text", text.size(), 1, kMaxTextBytes, "bytes"));
  if (plan.truncate) return EncodeTruncated(*model.tokenizer, plan.prefix + text, plan.max_tokens);
  RETURN_IF_ERROR(CheckCanFit(model, text));
  return model.tokenizer->Encode(plan.prefix + text, /*add_special_tokens=*/true);
}

absl::StatusOr<std::vector<TokenId>> CopyInputTokens(const v1::TokenIds& tokens, const EmbedPlan& plan,
                                                     const ServedModel& model) {
  const std::span<const TokenId> ids(tokens.ids().data(), static_cast<size_t>(tokens.ids_size()));
  RETURN_IF_ERROR(CheckTokenIds("token_ids", ids, kMaxInputTokens, model.report.info.vocab_size));
  const size_t kept = plan.truncate ? std::min(ids.size(), plan.max_tokens) : ids.size();
  return std::vector<TokenId>(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(kept));
}

// IEEE 754 half precision, rounded to nearest even, as every float16 type does it.
uint16_t ToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16U) & 0x8000U;
  const float magnitude = std::fabs(value);
  if (!(magnitude < 65520.0F)) return static_cast<uint16_t>(sign | (std::isnan(value) ? 0x7E00U : 0x7C00U));
  if (magnitude < 0x1p-14F) {  // subnormal: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(magnitude + 0.5F) - 0x3F000000U));
  }
  const uint32_t rounded = (bits & 0x7FFFFFFFU) + 0xFFFU + ((bits >> 13U) & 1U);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13U));
}

void PackHalf(std::span<const float> values, std::string* packed) {
  packed->resize(values.size() * 2);
  char* at = packed->data();
  for (const float value : values) {
    const uint16_t half = ToHalf(value);
    *at++ = static_cast<char>(half & 0xFFU);
    *at++ = static_cast<char>(half >> 8U);
  }
}

void PackInt8(std::span<const float> values, v1::Embedding* embedding) {
  float largest = 0.0F;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  const float scale = largest > 0.0F ? largest / 127.0F : 1.0F;
  embedding->set_scale(scale);
  embedding->mutable_packed()->reserve(values.size());
  for (const float value : values) {
    embedding->mutable_packed()->push_back(static_cast<char>(std::lround(value / scale)));
  }
}

}  // namespace

absl::StatusOr<EmbedPlan> PlanEmbed(const v1::EmbedRequest& request, const ServedModel& model) {
  const ModelInfo& info = model.report.info;
  if (!info.can_embed) {
    return absl::FailedPreconditionError(
        fmt::format("model \"{}\" ({}) does not embed", info.model, info.architecture));
  }
  EmbedPlan plan;
  RETURN_IF_ERROR(CheckSize("inputs", static_cast<size_t>(request.inputs_size()), 1, kMaxInputs, "inputs"));
  if (request.has_dimensions()) {
    RETURN_IF_ERROR(CheckRange("dimensions", request.dimensions(), 1, info.hidden_size));
    plan.params.dimensions = request.dimensions();
  }
  ASSIGN_OR_RETURN(plan.params.pooling, ToPooling(request.pooling(), model.embedding.pooling));
  ASSIGN_OR_RETURN(plan.prefix, Prefix(request.prompt_name(), model.embedding));
  ASSIGN_OR_RETURN(plan.encoding, ToEncoding(request.encoding()));
  plan.params.normalize = request.has_normalize() ? request.normalize() : model.embedding.normalize;
  plan.truncate = !request.has_truncate() || request.truncate();
  plan.max_tokens = MaxTokens(model);
  return plan;
}

size_t LongestText(const v1::EmbedRequest& request, const EmbedPlan& plan) {
  size_t longest = 0;
  for (const v1::EmbedInput& input : request.inputs()) longest = std::max(longest, input.text().size());
  return plan.truncate ? std::min(longest, plan.max_tokens * kMaxBytesPerToken) : longest;
}

size_t TextBytes(const v1::EmbedRequest& request) {
  size_t bytes = 0;
  for (const v1::EmbedInput& input : request.inputs()) bytes += input.text().size();
  return bytes;
}

absl::StatusOr<std::vector<TokenId>> EncodeInput(const v1::EmbedInput& input, const EmbedPlan& plan,
                                                 const ServedModel& model) {
  if (input.input_case() == v1::EmbedInput::INPUT_NOT_SET) {
    return absl::InvalidArgumentError("input: one of text and token_ids must be given");
  }
  auto ids =
      input.has_text() ? EncodeInputText(input.text(), plan, model) : CopyInputTokens(input.token_ids(), plan, model);
  if (ids.ok()) RETURN_IF_ERROR(CheckSize("input", ids->size(), 1, plan.max_tokens, "tokens"));
  return ids;
}

void Pack(std::span<const float> values, v1::EmbeddingEncoding encoding, v1::Embedding* embedding) {
  switch (encoding) {
    case v1::EMBEDDING_ENCODING_FLOAT16:
      return PackHalf(values, embedding->mutable_packed());
    case v1::EMBEDDING_ENCODING_INT8:
      return PackInt8(values, embedding);
    default:
      embedding->mutable_values()->Add(values.begin(), values.end());
  }
}

}  // namespace automodeld
