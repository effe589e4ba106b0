// The quantised forms of checkpoints, as config.json's quantization_config or modelopt's hf_quant_config.json name
// them.
//
//   ASSIGN_OR_RETURN(const std::string dialect, ReadQuantization(folder, config));   // "compressed-tensors"
//
// Understood, all with weights in float8_e4m3fn:
//   fp8                 one scale per tensor, or per block of 128 x 128 (weight_scale_inv): transformers, DeepSeek
//   compressed-tensors  float of 8 bits, one scale per tensor, output channel or block: llm-compressor
//   modelopt            FP8, one scale per tensor: NVIDIA's ModelOpt
//   fbgemm_fp8          one scale per output channel
// What a tensor is stored as tells whether it is quantised, so that lists of what was left out (ignore,
// modules_to_not_convert, exclude_modules) need no matching. Scales of activations are not used: these are scaled per
// token when they are there. Torch-free.
#ifndef CORE_QUANTIZATION_H_
#define CORE_QUANTIZATION_H_

#include <absl/status/statusor.h>

#include <string>

#include "core/config.h"

namespace automodeld {

// The dialect; empty: none. `folder` may be empty.
//   UNIMPLEMENTED     another dialect, or a form of one of these that is not understood: by name, with the known ones
//   INVALID_ARGUMENT  a field of the wrong type
absl::StatusOr<std::string> ReadQuantization(const std::string& folder, const Config& config);

// Whether a tensor belongs to a quantised checkpoint without being needed: scales of activations, of a KV cache that is
// not in FP8.
bool IsUnneededScale(const std::string& name);

}  // namespace automodeld

#endif  // CORE_QUANTIZATION_H_
