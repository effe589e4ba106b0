#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "core/text/text.h"
#include "tests/text/checkpoint_folder.h"
#include "tests/text/tokenizer_json.h"

namespace automodeld {
namespace {

constexpr std::string_view kReplacement = "\uFFFD";

std::shared_ptr<const Tokenizer> Load(const Json& tokenizer) {
  return CheckpointFolder().Write("tokenizer.json", tokenizer.dump()).Load();
}

std::string Stream(const std::shared_ptr<const Tokenizer>& tokenizer, std::span<const int32_t> ids, bool skip_special) {
  DecodeStream stream(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) text += *stream.Push(id);
  return text + stream.Flush();
}

// nlohmann's serialiser throws on anything else.
bool IsUtf8(const std::string& text) {
  try {
    return !Json(text).dump().empty();
  } catch (const Json::type_error&) {
    return false;
  }
}

struct Kind {
  const char* name;
  Json (*tokenizer)();
  friend void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }
};

class DecodeStreamOf : public testing::TestWithParam<Kind> {};

TEST_P(DecodeStreamOf, RandomIdsEqualsDecodeOfAll) {
  const auto tokenizer = Load(GetParam().tokenizer());
  std::mt19937 random(11);
  for (int round = 0; round < 400; ++round) {
    std::vector<int32_t> ids(random() % 80);
    // Some rounds draw from few ids, so that runs and repetitions are long.
    const bool from_few = round % 3 == 0;
    const auto vocab_size = static_cast<uint32_t>(tokenizer->vocab_size());
    const auto first = static_cast<uint32_t>(random() % vocab_size);
    for (int32_t& id : ids) id = static_cast<int32_t>((first + random() % (from_few ? 4 : vocab_size)) % vocab_size);
    for (const bool skip_special : {true, false}) {
      ASSERT_EQ(Stream(tokenizer, ids, skip_special), *tokenizer->Decode(ids, skip_special)) << Json(ids).dump();
    }
  }
}

TEST_P(DecodeStreamOf, EveryPieceIsUtf8) {
  const auto tokenizer = Load(GetParam().tokenizer());
  std::mt19937 random(12);
  DecodeStream stream(tokenizer, false);
  for (int i = 0; i < 5000; ++i) {
    const auto id = static_cast<int32_t>(random() % static_cast<uint32_t>(tokenizer->vocab_size()));
    ASSERT_TRUE(IsUtf8(*stream.Push(id)));
  }
  EXPECT_TRUE(IsUtf8(stream.Flush()));
}

TEST_P(DecodeStreamOf, TextsComeBackWhole) {
  const auto tokenizer = Load(GetParam().tokenizer());
  for (const std::string text :
       {"hello world", " hello  hello", "a 🙂🙃 b 👩‍👩‍👧", "unaffable, hello's world!", "你好 hello"}) {
    const std::vector<int32_t> ids = *tokenizer->Encode(text, true);
    EXPECT_EQ(Stream(tokenizer, ids, true), *tokenizer->Decode(ids, true));
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, DecodeStreamOf,
                         testing::Values(Kind{"ByteLevel", ByteLevelTokenizer},
                                         Kind{"ByteFallback", ByteFallbackTokenizer}, Kind{"Unigram", UnigramTokenizer},
                                         Kind{"WordPiece", WordPieceTokenizer}),
                         [](const auto& kind) { return kind.param.name; });

TEST(DecodeStream, CharactersSplitOverTokensAppearWithTheirLastByte) {
  DecodeStream stream(Load(ByteLevelTokenizer()));
  EXPECT_EQ(*stream.Push(0xF0), "");
  EXPECT_EQ(*stream.Push(0x9F), "");
  EXPECT_EQ(*stream.Push(0x99), "");
  EXPECT_EQ(*stream.Push(0x82), "🙂");
  EXPECT_EQ(*stream.Push('!'), "!");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(DecodeStream, ByteTokensAppearAsSoonAsTheirCharacterIsComplete) {
  const auto tokenizer = Load(ByteFallbackTokenizer());
  DecodeStream stream(tokenizer);
  std::vector<std::string> pieces;
  for (const char* token : {"▁h", "<0xE2>", "<0x82>", "<0xAC>", "<0xC3>", "<0xA4>", "▁w"}) {
    pieces.push_back(*stream.Push(*tokenizer->TokenToId(token)));
  }
  EXPECT_THAT(pieces, testing::ElementsAre("h", "", "", "€", "", "ä", " w"));
}

TEST(DecodeStream, ALateBrokenByteChangesNothingThatWasSent) {
  const auto tokenizer = Load(ByteFallbackTokenizer());
  DecodeStream stream(tokenizer);
  std::string text;
  for (const char* token : {"<0xE2>", "<0x82>", "<0xAC>", "<0xFF>"}) text += *stream.Push(*tokenizer->TokenToId(token));
  EXPECT_EQ(text, "€");
  EXPECT_EQ(stream.Flush(), kReplacement);
}

TEST(DecodeStream, LeadingSpaceBelongsToTheFirstTokenOnly) {
  const auto tokenizer = Load(UnigramTokenizer());
  const int32_t world = *tokenizer->TokenToId("▁world");
  DecodeStream stream(tokenizer);
  EXPECT_EQ(*stream.Push(world), "world");
  for (int i = 0; i < 100; ++i) ASSERT_EQ(*stream.Push(world), " world");
}

TEST(DecodeStream, BrokenBytesAreNotHeldBackForEver) {
  for (const auto& tokenizer : {Load(ByteLevelTokenizer()), Load(ByteFallbackTokenizer())}) {
    const int32_t byte = tokenizer->TokenToId("<0x80>").value_or(0x80);
    DecodeStream stream(tokenizer);
    EXPECT_EQ(*stream.Push(byte), "");
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(*stream.Push(byte), kReplacement);
    EXPECT_EQ(stream.Flush(), kReplacement);
  }
}

TEST(DecodeStream, AnUnfinishedCharacterComesOutOfFlush) {
  DecodeStream stream(Load(ByteLevelTokenizer()));
  EXPECT_EQ(*stream.Push('a'), "a");
  EXPECT_EQ(*stream.Push(0xE2), "");
  EXPECT_EQ(stream.Flush(), kReplacement);
  EXPECT_EQ(stream.Flush(), "");
  EXPECT_EQ(*stream.Push('b'), "b");
}

TEST(DecodeStream, SkippedSpecialTokensLeaveNoTrace) {
  const auto tokenizer = Load(ByteLevelTokenizer());
  const int32_t end = *tokenizer->TokenToId("</s>");
  DecodeStream stream(tokenizer);
  EXPECT_EQ(*stream.Push(0xC3), "");
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(*stream.Push(end), "");
  EXPECT_EQ(*stream.Push(0xA4), "ä");
}

TEST(DecodeStream, AnIdOutsideTheVocabularyLeavesTheStreamAsItWas) {
  const auto tokenizer = Load(ByteLevelTokenizer());
  DecodeStream stream(tokenizer);
  EXPECT_EQ(*stream.Push(0xC3), "");
  EXPECT_EQ(stream.Push(tokenizer->vocab_size()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(stream.Push(-1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*stream.Push(0xA4), "ä");
}

TEST(DecodeStream, OutlivesTheCallersTokenizer) {
  auto tokenizer = Load(ByteLevelTokenizer());
  DecodeStream stream(tokenizer);
  tokenizer.reset();
  DecodeStream moved = std::move(stream);
  EXPECT_EQ(*moved.Push('a'), "a");
}

}  // namespace
}  // namespace automodeld
