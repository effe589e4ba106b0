// The words that LoadOptions may hold, in one place for every road to a load.
//
//   RETURN_IF_ERROR(CheckLoadOptions(options));
//   CanonicalDtype("torch.bf16");  // "bfloat16"
//
// Torch-free.
#ifndef CORE_LOAD_OPTIONS_H_
#define CORE_LOAD_OPTIONS_H_

#include <absl/status/status.h>

#include <optional>
#include <string>

#include "core/auto_model.h"

namespace automodeld {

// INVALID_ARGUMENT names the field, its value and what it may be: torch_dtype, attn_implementation, sdpa_method (none
// twice), fp8_config, device, engine.kv_cache_dtype.
absl::Status CheckLoadOptions(const LoadOptions& options);

// "bfloat16", "float16" or "float32" for what NeMo, Hugging Face and torch call them, in any case and with or without
// "torch."; nothing for other words.
std::optional<std::string> CanonicalDtype(const std::string& word);

// The spellings that CanonicalDtype knows: "bfloat16, bf16, float16, half, float32, float".
std::string DtypeWords();

}  // namespace automodeld

#endif  // CORE_LOAD_OPTIONS_H_
