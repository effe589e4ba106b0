// The ranges of GenerateRequest, checked before anything is allocated for it.
//
//   RETURN_IF_ERROR(CheckGenerate(request, model));   // `top_k: -1 is outside 0..32000`
#ifndef SERVER_CHECK_GENERATE_H_
#define SERVER_CHECK_GENERATE_H_

#include <absl/status/status.h>

#include <span>
#include <string_view>

#include "automodeld/v1/inference.pb.h"
#include "core/model_registry.h"

namespace automodeld {

// Every range of inference.proto, against this model's vocabulary and abilities.
//   INVALID_ARGUMENT     field, value and range
//   FAILED_PRECONDITION  the model is an encoder, has no tokenizer, or no chat template
//   UNIMPLEMENTED        a field whose feature this version or this model lacks
absl::Status CheckGenerate(const v1::GenerateRequest& request, const ServedModel& model);

// INVALID_ARGUMENT unless there are at most `max_ids` and each is 0..vocab_size-1.
absl::Status CheckTokenIds(std::string_view field, std::span<const TokenId> ids, size_t max_ids, int vocab_size);

// FAILED_PRECONDITION if the model takes token ids only.
absl::Status CheckHasTokenizer(const ServedModel& model);

}  // namespace automodeld

#endif  // SERVER_CHECK_GENERATE_H_
