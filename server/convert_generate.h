// GenerateRequest to what the engine takes.
//
//   RETURN_IF_ERROR(CheckGenerate(request, model));                         // check_generate.h
//   ASSIGN_OR_RETURN(auto prompt, EncodePrompt(request, model));            // on a worker thread
//   ASSIGN_OR_RETURN(auto sampling, ToSampling(request.sampling(), model, prompt.size()));
#ifndef SERVER_CONVERT_GENERATE_H_
#define SERVER_CONVERT_GENERATE_H_

#include <absl/status/statusor.h>

#include <vector>

#include "automodeld/v1/inference.pb.h"
#include "core/model_registry.h"

namespace automodeld {

// Both only after CheckGenerate.

// The prompt's tokens; the chat template is applied. INVALID_ARGUMENT where there are none, or the template refuses.
absl::StatusOr<std::vector<TokenId>> EncodePrompt(const v1::GenerateRequest& request, const ServedModel& model);

// `params` with the checkpoint's and our defaults filled in; a seed is drawn where none is given.
// INVALID_ARGUMENT if min_tokens is above what max_tokens comes to.
absl::StatusOr<SamplingParams> ToSampling(const v1::SamplingParams& params, const ServedModel& model,
                                          size_t num_prompt_tokens);

v1::GenerateResponse ToProto(int index, Delta delta);
v1::FinishReason ToProto(FinishReason reason);
v1::Usage ToProto(const RequestUsage& usage);

}  // namespace automodeld

#endif  // SERVER_CONVERT_GENERATE_H_
