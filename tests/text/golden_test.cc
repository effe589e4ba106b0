// What transformers and tokenizers say about the same files and inputs (golden.json, by make_golden.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/text/text.h"
#include "tests/text/checkpoint_folder.h"
#include "tests/text/tokenizer_json.h"

namespace automodeld {
namespace {

const Json& Golden() {
  static const Json golden = Json::parse(std::ifstream(AUTOMODELD_SOURCE_DIR "/tests/text/golden.json"));
  return golden;
}

std::shared_ptr<const Tokenizer> LoadGolden(const std::string& name) {
  return CheckpointFolder().Write("tokenizer.json", Golden()["tokenizers"][name].dump()).Load();
}

std::map<std::string, std::shared_ptr<const Tokenizer>> LoadAll() {
  std::map<std::string, std::shared_ptr<const Tokenizer>> tokenizers;
  for (const auto& [name, json] : Golden()["tokenizers"].items()) tokenizers[name] = LoadGolden(name);
  return tokenizers;
}

TEST(Golden, TextsEncodeToTheSameIds) {
  const auto tokenizers = LoadAll();
  ASSERT_GT(Golden()["encodings"].size(), 60U);
  for (const Json& row : Golden()["encodings"]) {
    SCOPED_TRACE(row.dump());
    const Tokenizer& tokenizer = *tokenizers.at(row["tokenizer"]);
    const std::string text = row["text"];
    EXPECT_EQ(*tokenizer.Encode(text, false), row["plain_ids"].get<std::vector<int32_t>>());
    EXPECT_EQ(*tokenizer.Encode(text, true), row["ids"].get<std::vector<int32_t>>());
  }
}

TEST(Golden, IdsDecodeToTheSameText) {
  const auto tokenizers = LoadAll();
  for (const Json& row : Golden()["encodings"]) {
    SCOPED_TRACE(row.dump());
    const Tokenizer& tokenizer = *tokenizers.at(row["tokenizer"]);
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(*tokenizer.Decode(ids, false), row["decoded"]);
    EXPECT_EQ(*tokenizer.Decode(ids, true), row["decoded_without_special"]);
  }
  for (const Json& row : Golden()["decodings"]) {
    SCOPED_TRACE(row.dump());
    const Tokenizer& tokenizer = *tokenizers.at(row["tokenizer"]);
    EXPECT_EQ(*tokenizer.Decode(row["ids"].get<std::vector<int32_t>>(), true), row["decoded"]);
  }
}

std::shared_ptr<const Tokenizer> LoadWithTemplate(const std::string& name) {
  const std::string path = std::string(AUTOMODELD_SOURCE_DIR "/tests/text/templates/") + name + ".jinja";
  std::ifstream file(path);
  const std::string source{std::istreambuf_iterator<char>(file), {}};
  return CheckpointFolder()
      .Write("tokenizer.json", Golden()["tokenizers"]["byte_level"].dump())
      .Write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})")
      .Write("chat_template.jinja", source)
      .Load();
}

class GoldenChat : public testing::TestWithParam<std::string> {};

TEST_P(GoldenChat, RendersAsTransformersDoes) {
  const auto tokenizer = LoadWithTemplate(GetParam());
  for (const Json& row : Golden()["rendered"]) {
    if (row["template"] != GetParam()) continue;
    SCOPED_TRACE(row.dump());
    const ChatOptions options = {.add_generation_prompt = row["add_generation_prompt"],
                                 .tools_json = row["tools"] ? Golden()["tools"].dump() : "",
                                 .extra_json = row["extra"].dump()};
    const auto prompt = tokenizer->RenderChat(Golden()["chats"][row["chat"].get<std::string>()].dump(), options);
    if (row.contains("prompt")) {
      ASSERT_TRUE(prompt.ok()) << prompt.status();
      EXPECT_EQ(*prompt, row["prompt"].get<std::string>());
    } else {
      EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument) << *prompt;
    }
  }
}

std::vector<std::string> TemplateNames() {
  std::set<std::string> names;
  for (const Json& row : Golden()["rendered"]) names.insert(row["template"]);
  return {names.begin(), names.end()};
}

INSTANTIATE_TEST_SUITE_P(Templates, GoldenChat, testing::ValuesIn(TemplateNames()),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace automodeld
