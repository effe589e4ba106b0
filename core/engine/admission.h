// Which requests a model can serve at all, whatever its load: checked before a request is queued. Any thread.
#ifndef CORE_ENGINE_ADMISSION_H_
#define CORE_ENGINE_ADMISSION_H_

#include <absl/status/status.h>

#include "core/engine/request.h"
#include "core/engine/runner.h"

namespace automodeld {

// Tokens that prompt and completion may have together: max_model_len, or less where all KV pages hold less.
int MaxSequenceLength(const RunnerLimits& limits);

// Tokens that the request's completion will have at most; its end there is FinishReason::kLength.
int MaxCompletionLength(const Request& request, const RunnerLimits& limits);

// INVALID_ARGUMENT: empty prompt, or no room for one token after it. FAILED_PRECONDITION: kGenerate on an encoder.
// RESOURCE_EXHAUSTED: longer than max_model_len, than all KV pages together, or (encoder) than one step.
absl::Status CheckAdmissible(const Request& request, const RunnerLimits& limits);

}  // namespace automodeld

#endif  // CORE_ENGINE_ADMISSION_H_
