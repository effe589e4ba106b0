#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "core/text/text.h"
#include "tests/text/checkpoint_folder.h"
#include "tests/text/tokenizer_json.h"

namespace automodeld {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::shared_ptr<const Tokenizer> Load(const Json& tokenizer, const Json& config = Json::object()) {
  return CheckpointFolder()
      .Write("tokenizer.json", tokenizer.dump())
      .Write("tokenizer_config.json", config.dump())
      .Load();
}

TEST(Tokenizer, TruncationAndPaddingOfTheFileDoNotAlterEncode) {
  const auto tokenizer = Load(WordPieceTokenizer());  // max_length 4, padded to 16
  EXPECT_THAT(*tokenizer->Encode("Hello unaffable world!", true), ElementsAre(2, 4, 6, 7, 8, 5, 14, 3));
  EXPECT_THAT(*tokenizer->Encode("Hello unaffable world!", false), ElementsAre(4, 6, 7, 8, 5, 14));
  EXPECT_THAT(*tokenizer->Encode("", true), ElementsAre(2, 3));
}

TEST(Tokenizer, DropoutOfTheFileIsIgnored) {
  Json json = ByteLevelTokenizer();
  json["model"]["dropout"] = 0.9;
  const auto with = Load(json), without = Load(ByteLevelTokenizer());
  const std::string text = "hello hello hello world world hello";
  EXPECT_EQ(*with->Encode(text, false), *without->Encode(text, false));
}

TEST(Tokenizer, DecodeInvertsEncodeOfByteLevelTexts) {
  const auto tokenizer = Load(ByteLevelTokenizer());
  for (const std::string text :
       {"", "hello world", "  x\n\n\ty  ", "naïve 🙂 你好 \u200d", "</s> a<s>", "\x7f\x01"}) {
    EXPECT_EQ(*tokenizer->Decode(*tokenizer->Encode(text, false), false), text);
  }
}

TEST(Tokenizer, SpecialTokensInTheTextBecomeTheirIds) {
  const auto tokenizer = Load(ByteLevelTokenizer());
  const int32_t end = *tokenizer->TokenToId("<|im_end|>");
  EXPECT_THAT(*tokenizer->Encode("h<|im_end|>", false), ElementsAre('h', end));
  EXPECT_EQ(*tokenizer->Decode(std::vector<int32_t>{'h', end}, true), "h");
  EXPECT_EQ(*tokenizer->Decode(std::vector<int32_t>{'h', end}, false), "h<|im_end|>");
}

TEST(Tokenizer, FactsComeFromTheConfigInEitherForm) {
  const Json config = {{"bos_token", "<s>"},
                       {"eos_token", {{"content", "<|im_end|>"}, {"lstrip", false}}},
                       {"pad_token", nullptr},
                       {"model_max_length", 8192}};
  const auto tokenizer = Load(ByteLevelTokenizer(), config);
  EXPECT_EQ(tokenizer->bos_id(), tokenizer->TokenToId("<s>"));
  EXPECT_EQ(tokenizer->eos_id(), tokenizer->TokenToId("<|im_end|>"));
  EXPECT_EQ(tokenizer->pad_id(), std::nullopt);
  EXPECT_EQ(tokenizer->model_max_length(), 8192);
  EXPECT_EQ(tokenizer->vocab_size(), *tokenizer->TokenToId("<tool_call>") + 1);
  EXPECT_EQ(tokenizer->TokenToId("no such token"), std::nullopt);
  EXPECT_FALSE(tokenizer->has_chat_template());
}

TEST(Tokenizer, FactsComeFromTheSpecialTokensMapOfOlderCheckpoints) {
  const auto tokenizer =
      CheckpointFolder()
          .Write("tokenizer.json", ByteLevelTokenizer().dump())
          .Write("special_tokens_map.json", R"({"eos_token": "</s>", "pad_token": {"content": "<s>"}})")
          .Load();
  EXPECT_EQ(tokenizer->eos_id(), tokenizer->TokenToId("</s>"));
  EXPECT_EQ(tokenizer->pad_id(), tokenizer->TokenToId("<s>"));
}

TEST(Tokenizer, AbsurdModelMaxLengthCountsAsNone) {
  for (const char* length : {"1e30", "1000000000000000019884624838656", "0", "-1", "\"512\"", "null"}) {
    const auto tokenizer = CheckpointFolder()
                               .Write("tokenizer.json", ByteLevelTokenizer().dump())
                               .Write("tokenizer_config.json", std::string("{\"model_max_length\": ") + length + "}")
                               .Load();
    EXPECT_EQ(tokenizer->model_max_length(), 0) << length;
  }
}

TEST(Tokenizer, TheConfigsEndOfSequenceIsSpecialEvenIfTheFileSaysOrdinary) {
  const auto tokenizer = Load(ByteLevelTokenizer(), {{"eos_token", "<tool_call>"}});
  const std::vector<int32_t> ids = {'h', *tokenizer->eos_id()};
  EXPECT_EQ(*tokenizer->Decode(ids, true), "h");
  EXPECT_EQ(*Load(ByteLevelTokenizer())->Decode(ids, true), "h<tool_call>");
}

TEST(Tokenizer, MissingTokenizerIsNotFound) {
  const auto tokenizer = CheckpointFolder().TryLoad();
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("tokenizer.json"));
}

TEST(Tokenizer, InvalidUtf8IsRefusedWithItsPlace) {
  const auto tokenizer = Load(ByteLevelTokenizer());
  for (const std::string text : {"ab\xFF", "ab\xE2\x82", "ab\xC0\x80", "ab\xED\xA0\x80"}) {
    const auto ids = tokenizer->Encode(text, false);
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(std::string(ids.status().message()), "text: invalid UTF-8 at byte 2");
  }
}

TEST(Tokenizer, TextsOverTheLimitAreRefusedWithTheLimit) {
  const auto tokenizer = Load(ByteLevelTokenizer());
  const auto ids = tokenizer->Encode(std::string(kMaxTextBytes + 1, ' '), false);
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(ids.status().message()), "text: 8388609 bytes are more than 8388608");
}

TEST(Tokenizer, IdsOutsideTheVocabularyAreRefused) {
  const auto tokenizer = Load(ByteLevelTokenizer());
  for (const int32_t id : {-1, tokenizer->vocab_size(), INT32_MAX, INT32_MIN}) {
    const auto text = tokenizer->Decode(std::vector<int32_t>{'a', id}, false);
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(text.status().message()), HasSubstr(std::to_string(id) + " is outside 0.."));
  }
}

TEST(Tokenizer, WordsWithoutAnEncodingAreRefusedNotFatal) {
  Json json = UnigramTokenizer();
  json["model"]["unk_id"] = nullptr;
  const auto ids = Load(json)->Encode("Ω", false);
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Tokenizer, MessagesNameNoPath) {
  const auto tokenizer = CheckpointFolder().Write("tokenizer.json", "{").TryLoad();
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(tokenizer.status().message()), Not(HasSubstr("/")));
}

TEST(Tokenizer, ManyThreadsGetWhatOneGets) {
  const auto tokenizer = Load(ByteLevelTokenizer());
  const std::string text = "hello world 🙂 aaaaaaaaaaaaaaaa wow hello";
  const std::vector<int32_t> expected = *tokenizer->Encode(text, false);
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 200; ++round) {
        EXPECT_EQ(*tokenizer->Encode(text, false), expected);
        EXPECT_EQ(*tokenizer->Decode(expected, false), text);
        EXPECT_TRUE(tokenizer->Encode("round " + std::to_string(i * 1000 + round), false).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace automodeld
