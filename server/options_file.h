// The YAML file of `serve --config`.
//
//   listen: 0.0.0.0:50051
//   max_queue_size: 64
//   op_library: [/opt/mycorp/libops.so]
//   models:
//     - {model: llama, path: /models/llama, torch_dtype: bfloat16, fp8_config: {recipe_name: rowwise}}
#ifndef SERVER_OPTIONS_FILE_H_
#define SERVER_OPTIONS_FILE_H_

#include <absl/status/statusor.h>

#include <map>
#include <string>
#include <vector>

#include "automodeld/v1/models.pb.h"

namespace automodeld {

struct OptionsFile {
  std::map<std::string, std::vector<std::string>> values;  // by key, one each unless it is a list; without `models`
  std::vector<v1::LoadModelRequest> models;
};

// INVALID_ARGUMENT, naming the key: not YAML, a key twice, a value of the wrong kind, an unknown field of a model,
// check_only, or aliases without end.
// That the keys are known, and a list is given only where one may be, is for the caller to check.
absl::StatusOr<OptionsFile> ParseOptionsFile(const std::string& yaml);

}  // namespace automodeld

#endif  // SERVER_OPTIONS_FILE_H_
