// A real tokenizer of few tokens, written to the test's temporary folder.
#ifndef TESTS_ENGINE_LETTERS_TOKENIZER_H_
#define TESTS_ENGINE_LETTERS_TOKENIZER_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "core/text/text.h"

namespace automodeld {

// Token id of a byte-level vocabulary: 0..25 are "a".."z"; then the space, the end of sequence (special), the two bytes
// of "é", and "END" as one token.
inline constexpr int kSpace = 26, kEos = 27, kFirstByte = 28, kSecondByte = 29, kEnd = 30, kLettersVocabSize = 31;

inline std::shared_ptr<const Tokenizer> LettersTokenizer() {
  std::string vocab;
  for (char letter = 'a'; letter <= 'z'; ++letter) {
    vocab += '"' + std::string(1, letter) + "\": " + std::to_string(letter - 'a') + ", ";
  }
  vocab += R"("Ġ": 26, "<eos>": 27, "Ã": 28, "©": 29, "END": 30)";
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / ("letters_tokenizer." + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "tokenizer.json")
      << R"({"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
             "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
             "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
             "added_tokens": [{"id": 27, "content": "<eos>", "special": true, "single_word": false, "lstrip": false,
                               "rstrip": false, "normalized": false}],
             "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "merges": [],
                       "vocab": {)"
      << vocab << "}}}";
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = Tokenizer::Load(folder.string());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::filesystem::remove_all(folder);
  return tokenizer.ok() ? *tokenizer : nullptr;
}

}  // namespace automodeld

#endif  // TESTS_ENGINE_LETTERS_TOKENIZER_H_
