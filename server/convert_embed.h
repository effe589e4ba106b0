// EmbedRequest to what the engine takes, and vectors to the wire.
//
//   ASSIGN_OR_RETURN(EmbedPlan plan, PlanEmbed(request, *model));            // cheap, before anything is allocated
//   ASSIGN_OR_RETURN(auto ids, EncodeInput(request.inputs(0), plan, *model));  // on a worker thread
//   Pack(values, plan.encoding, response->mutable_embeddings(0));
#ifndef SERVER_CONVERT_EMBED_H_
#define SERVER_CONVERT_EMBED_H_

#include <absl/status/statusor.h>

#include <span>
#include <string>
#include <vector>

#include "automodeld/v1/inference.pb.h"
#include "core/model_registry.h"

namespace automodeld {

// What holds for every input of a call.
struct EmbedPlan {
  EmbedParams params;
  std::string prefix;  // put before each text
  bool truncate = true;
  size_t max_tokens = 0;  // of one input
  v1::EmbeddingEncoding encoding = v1::EMBEDDING_ENCODING_FLOAT32;
};

// INVALID_ARGUMENT names field, value and range; FAILED_PRECONDITION: the model does not embed. Single inputs are not
// looked at.
absl::StatusOr<EmbedPlan> PlanEmbed(const v1::EmbedRequest& request, const ServedModel& model);

// Bytes of the longest text that will be encoded.
size_t LongestText(const v1::EmbedRequest& request, const EmbedPlan& plan);

// Bytes of all texts, those that will be cut included.
size_t TextBytes(const v1::EmbedRequest& request);

// The tokens of one input, cut if the plan says so. INVALID_ARGUMENT and FAILED_PRECONDITION are this input's own.
absl::StatusOr<std::vector<TokenId>> EncodeInput(const v1::EmbedInput& input, const EmbedPlan& plan,
                                                 const ServedModel& model);

// Writes `values` in the given encoding.
void Pack(std::span<const float> values, v1::EmbeddingEncoding encoding, v1::Embedding* embedding);

}  // namespace automodeld

#endif  // SERVER_CONVERT_EMBED_H_
