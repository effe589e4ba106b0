#include "core/sentence_transformers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "tests/loading/checkpoint_folder.h"

namespace automodeld {
namespace {

using testing::HasSubstr;

constexpr char kOldModules[] = R"([
  {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
  {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
  {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}])";

constexpr char kNewModules[] = R"([
  {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
  {"idx": 1, "name": "1", "path": "1_Pooling",
   "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"}])";

absl::Status StatusFor(const CheckpointFolder& folder) { return ReadEmbeddingDefaults(folder.path(), false).status(); }

std::string MessageFor(const CheckpointFolder& folder) { return std::string(StatusFor(folder).message()); }

TEST(SentenceTransformers, WithoutFilesEncodersTakeTheMeanAndCausalModelsTheLastToken) {
  const CheckpointFolder folder;
  for (const std::string& path : {folder.path(), std::string()}) {
    const auto encoder = ReadEmbeddingDefaults(path, /*causal=*/false);
    ASSERT_TRUE(encoder.ok()) << encoder.status();
    EXPECT_EQ(encoder->pooling, Pooling::kMean);
    EXPECT_TRUE(encoder->normalize);
    EXPECT_EQ(ReadEmbeddingDefaults(path, /*causal=*/true)->pooling, Pooling::kLastToken);
  }
}

TEST(SentenceTransformers, ReadsWhatVersion2Wrote) {
  const CheckpointFolder folder;
  folder.Write("modules.json", kOldModules);
  folder.Write("1_Pooling/config.json",
               R"({"word_embedding_dimension": 384, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false,
                   "pooling_mode_max_tokens": false, "pooling_mode_mean_sqrt_len_tokens": false})");
  folder.Write("sentence_bert_config.json", R"({"max_seq_length": 256, "do_lower_case": false})");
  folder.Write("config_sentence_transformers.json", R"({"__version__": {"sentence_transformers": "2.0.0"}})");
  const auto read = ReadEmbeddingDefaults(folder.path(), false);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->pooling, Pooling::kCls);
  EXPECT_TRUE(read->normalize);
  EXPECT_EQ(read->max_seq_length, 256);
  EXPECT_TRUE(read->prompts.empty());
}

TEST(SentenceTransformers, ReadsWhatVersion6Writes) {
  const CheckpointFolder folder;
  folder.Write("modules.json", kNewModules);
  folder.Write("1_Pooling/config.json",
               R"({"embedding_dimension": 384, "pooling_mode": "weightedmean", "include_prompt": true})");
  folder.Write("sentence_bert_config.json", R"({"transformer_task": "feature-extraction",
               "modality_config": {"text": {"method": "forward"}}, "module_output_name": "token_embeddings"})");
  folder.Write("config_sentence_transformers.json",
               R"({"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query",
                   "similarity_fn_name": "cosine"})");
  const auto read = ReadEmbeddingDefaults(folder.path(), false);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->pooling, Pooling::kWeightedMean);
  EXPECT_FALSE(read->normalize);  // no such module
  EXPECT_EQ(read->max_seq_length, 0);
  EXPECT_EQ(read->prompts, (std::map<std::string, std::string>{{"query", "query: "}, {"document", ""}}));
  EXPECT_EQ(read->default_prompt_name, "query");
}

TEST(SentenceTransformers, EveryPoolingModeIsKnownInBothForms) {
  const std::map<std::string, Pooling> modes = {{"cls", Pooling::kCls},
                                                {"max", Pooling::kMax},
                                                {"mean", Pooling::kMean},
                                                {"mean_sqrt_len_tokens", Pooling::kMeanSqrtLen},
                                                {"weightedmean", Pooling::kWeightedMean},
                                                {"lasttoken", Pooling::kLastToken}};
  const std::map<std::string, std::string> flags = {{"cls", "cls_token"},
                                                    {"max", "max_tokens"},
                                                    {"mean", "mean_tokens"},
                                                    {"mean_sqrt_len_tokens", "mean_sqrt_len_tokens"},
                                                    {"weightedmean", "weightedmean_tokens"},
                                                    {"lasttoken", "lasttoken"}};
  const CheckpointFolder folder;
  folder.Write("modules.json", kOldModules);
  for (const auto& [name, pooling] : modes) {
    for (const std::string& text : {"{\"pooling_mode\": \"" + name + "\"}", "{\"pooling_mode\": [\"" + name + "\"]}",
                                    "{\"pooling_mode_" + flags.at(name) + "\": true}"}) {
      folder.Write("1_Pooling/config.json", text);
      const auto read = ReadEmbeddingDefaults(folder.path(), true);
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_EQ(read->pooling, pooling) << text;
    }
  }
}

TEST(SentenceTransformers, WhatCannotBeServedIsNamed) {
  struct Fault {
    std::string file, text;
    absl::StatusCode code;
    const char* message;
  };
  const std::string dense = R"([{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"},
                                {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}])";
  for (const Fault& fault : std::vector<Fault>{
           {"modules.json", dense, absl::StatusCode::kUnimplemented, "modules.json: Dense is not supported"},
           {"modules.json", R"([{"path": "0_Transformer", "type": "x.Transformer"}])", absl::StatusCode::kUnimplemented,
            "0_Transformer"},
           {"modules.json", R"([{"path": "../x", "type": "x.Pooling"}])", absl::StatusCode::kInvalidArgument, "../x"},
           {"modules.json", R"([{"path": "gone", "type": "x.Pooling"}])", absl::StatusCode::kNotFound,
            "gone/config.json"},
           {"modules.json", R"([{"path": ""}])", absl::StatusCode::kInvalidArgument, "modules.json: 0: has no type"},
           {"modules.json", R"([7])", absl::StatusCode::kInvalidArgument, "modules.json: 0: has no type"},
           {"modules.json", R"({})", absl::StatusCode::kInvalidArgument, "modules.json: not a list"},
           {"modules.json", R"([)", absl::StatusCode::kInvalidArgument, "modules.json: not valid JSON"},
           {"1_Pooling/config.json", R"({"pooling_mode": ["mean", "max"]})", absl::StatusCode::kUnimplemented,
            "2 pooling modes at once"},
           {"1_Pooling/config.json", R"({"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true})",
            absl::StatusCode::kUnimplemented, "2 pooling modes at once"},
           {"1_Pooling/config.json", R"({"pooling_mode": "median"})", absl::StatusCode::kUnimplemented, "median"},
           {"1_Pooling/config.json", R"({"pooling_mode": 3})", absl::StatusCode::kInvalidArgument, "3 is not a string"},
           {"1_Pooling/config.json", R"({"include_prompt": false})", absl::StatusCode::kUnimplemented,
            "include_prompt"},
           {"sentence_bert_config.json", R"({"max_seq_length": 0})", absl::StatusCode::kInvalidArgument,
            "max_seq_length: 0 is outside 1..1048576"},
           {"sentence_bert_config.json", R"({"do_lower_case": true})", absl::StatusCode::kUnimplemented,
            "do_lower_case"},
           {"config_sentence_transformers.json", R"({"prompts": {"q": 7}})", absl::StatusCode::kInvalidArgument,
            "prompts.q: 7 is not a string"},
           {"config_sentence_transformers.json", R"({"prompts": 7})", absl::StatusCode::kInvalidArgument,
            "prompts: 7 is not an object"},
           {"config_sentence_transformers.json", R"({"default_prompt_name": "q"})", absl::StatusCode::kInvalidArgument,
            "default_prompt_name: q is not one of prompts"},
       }) {
    SCOPED_TRACE(fault.file + fault.text);
    const CheckpointFolder folder;
    folder.Write("modules.json", kOldModules);
    folder.Write("1_Pooling/config.json", "{}");
    folder.Write(fault.file, fault.text);
    EXPECT_EQ(StatusFor(folder).code(), fault.code) << StatusFor(folder);
    EXPECT_THAT(MessageFor(folder), HasSubstr(fault.message));
  }
}

}  // namespace
}  // namespace automodeld
