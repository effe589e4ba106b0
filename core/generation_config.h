// What a checkpoint says about sampling: generation_config.json, and config.json for what the former leaves out.
//
//   ASSIGN_OR_RETURN(GenerationDefaults defaults, ReadGenerationDefaults(folder, config));
//
// Torch-free.
#ifndef CORE_GENERATION_CONFIG_H_
#define CORE_GENERATION_CONFIG_H_

#include <absl/status/statusor.h>

#include <string>

#include "core/auto_model.h"
#include "core/config.h"

namespace automodeld {

// Ends of sequence are generation_config.json's `eos_token_id`, else config.json's. An empty `folder` (FromConfig) or a
// folder without the file leaves the rest unset. INVALID_ARGUMENT lists every field of a wrong type or range.
absl::StatusOr<GenerationDefaults> ReadGenerationDefaults(const std::string& folder, const Config& config);

}  // namespace automodeld

#endif  // CORE_GENERATION_CONFIG_H_
