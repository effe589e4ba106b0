#include "core/generation_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/loading/checkpoint_folder.h"

namespace automodeld {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Config ModelConfig(const std::string& text) { return Config::Parse(text, "config.json").value(); }

TEST(GenerationConfig, EveryFieldIsRead) {
  const CheckpointFolder folder;
  folder.Write("generation_config.json",
               R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1, "max_new_tokens": 9,
                   "repetition_penalty": 1.05, "eos_token_id": [151645, 151643], "transformers_version": "4.51.0"})");
  const auto read = ReadGenerationDefaults(folder.path(), ModelConfig(R"({"eos_token_id": 2})"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->do_sample, true);
  EXPECT_EQ(read->temperature, 0.6F);
  EXPECT_EQ(read->top_k, 20);
  EXPECT_EQ(read->top_p, 0.95F);
  EXPECT_EQ(read->min_p, 0.1F);
  EXPECT_EQ(read->max_new_tokens, 9);
  EXPECT_EQ(read->repetition_penalty, 1.05F);
  EXPECT_THAT(read->eos_token_ids, ElementsAre(151645, 151643));
}

TEST(GenerationConfig, WithoutTheFileOnlyEndsOfSequenceAreKnown) {
  const CheckpointFolder folder;
  for (const std::string& path : {folder.path(), std::string()}) {
    const auto read = ReadGenerationDefaults(path, ModelConfig(R"({"eos_token_id": 2, "temperature": 0.1})"));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_FALSE(read->temperature.has_value());
    EXPECT_FALSE(read->do_sample.has_value());
    EXPECT_THAT(read->eos_token_ids, ElementsAre(2));
  }
}

TEST(GenerationConfig, NullsAreLeftUnset) {
  const CheckpointFolder folder;
  folder.Write("generation_config.json", R"({"temperature": null, "eos_token_id": null})");
  const auto read = ReadGenerationDefaults(folder.path(), ModelConfig(R"({"eos_token_id": null})"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_FALSE(read->temperature.has_value());
  EXPECT_TRUE(read->eos_token_ids.empty());
}

TEST(GenerationConfig, EveryErrorIsListed) {
  const CheckpointFolder folder;
  folder.Write("generation_config.json", R"({"temperature": -1, "top_p": "x", "top_k": 1.5, "eos_token_id": [-1]})");
  const absl::Status status = ReadGenerationDefaults(folder.path(), ModelConfig("{}")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  for (const char* part : {"generation_config.json: temperature: -1 is outside 0..100", "top_p: \"x\" is not a number",
                           "top_k: 1.5 is not an integer", "eos_token_id: -1 is outside 0..2147483647"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
}

}  // namespace
}  // namespace automodeld
