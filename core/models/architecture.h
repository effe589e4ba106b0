// The registry of architectures: what config.json's `architectures` can name.
//
// A family is one file in core/models/ that registers its rows:
//   const bool registered = RegisterArchitectures({
//       {.name = "LlamaForCausalLM", .model_type = "llama", .classes = {AutoClass::kCausalLM, AutoClass::kEmbedding},
//        .describe = ..., .make = ..., .ignorable = {"rotary_emb.inv_freq"}}});
// Add a model: one file, or one row.
#ifndef CORE_MODELS_ARCHITECTURE_H_
#define CORE_MODELS_ARCHITECTURE_H_

#include <absl/status/statusor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/auto_model.h"
#include "core/checkpoint.h"
#include "core/config.h"
#include "core/model.h"
#include "kernels/ops.h"

namespace automodeld {

struct Architecture {
  std::string name;                // config.json's architectures[0]
  std::string model_type;          // config.json's model_type
  std::vector<AutoClass> classes;  // the first is what AUTO means
  std::function<absl::StatusOr<ModelShape>(const Config&)> describe;
  // Pulls every weight; errors are in the weights' source. `config` has passed describe.
  std::function<std::unique_ptr<Model>(const Config&, const Weights&, const Ops&)> make;
  std::vector<std::string> ops;  // operations of the op table that it calls
  std::string base_prefix;       // "model.": names may come with or without it
  // With tie_word_embeddings, `copy` may be stored as well, and must then equal `original`.
  struct {
    std::string copy, original;
  } tied = {};
  std::vector<std::string> ignorable;  // substrings of tensor names that need not be read
};

bool RegisterArchitectures(std::vector<Architecture> rows);  // at start-up only
const Architecture* FindArchitecture(const std::string& name);
const Architecture* FindArchitecture(const std::string& model_type, AutoClass auto_class);
std::vector<std::string> ArchitectureNames();  // sorted

}  // namespace automodeld

#endif  // CORE_MODELS_ARCHITECTURE_H_
