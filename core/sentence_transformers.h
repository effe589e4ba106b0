// What a checkpoint says about embeddings, in sentence-transformers' files, as its versions 2 to 6 write them:
//   modules.json                        Transformer, then Pooling, then Normalize; the last two may be absent
//   1_Pooling/config.json               pooling_mode_mean_tokens: true, …, or since version 6 pooling_mode: "mean"
//   sentence_bert_config.json           max_seq_length (versions before 6; later the tokenizer's model_max_length)
//   config_sentence_transformers.json   prompts, default_prompt_name
//
//   ASSIGN_OR_RETURN(EmbeddingDefaults defaults, ReadEmbeddingDefaults(folder, shape.causal));
//
// Torch-free.
#ifndef CORE_SENTENCE_TRANSFORMERS_H_
#define CORE_SENTENCE_TRANSFORMERS_H_

#include <absl/status/statusor.h>

#include <string>

#include "core/auto_model.h"

namespace automodeld {

// Without modules.json: an encoder's vectors are the mean of its tokens, as in sentence-transformers, a causal model's
// the last token's; both normalised, because cosine similarity is what nearly every user computes next. With it, what
// it says: no Normalize, no normalising. An empty `folder` has no files.
//   UNIMPLEMENTED     a module of another kind (Dense, …), several pooling modes at once, or another option unknown
//   here INVALID_ARGUMENT  a file is malformed; every error is listed
absl::StatusOr<EmbeddingDefaults> ReadEmbeddingDefaults(const std::string& folder, bool causal);

}  // namespace automodeld

#endif  // CORE_SENTENCE_TRANSFORMERS_H_
