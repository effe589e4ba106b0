// Time grows no faster than n log n with the length of a text, whatever the text. Processor time of this thread is
// measured, so that other work on the machine does not count; four times the text may take ten times as long
// (n log n: 4.5 times; n squared: 16 times).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>

#include "core/text/text.h"
#include "tests/text/checkpoint_folder.h"
#include "tests/text/tokenizer_json.h"

namespace automodeld {
namespace {

std::shared_ptr<const Tokenizer> Load(const Json& tokenizer) {
  return CheckpointFolder().Write("tokenizer.json", tokenizer.dump()).Load();
}

double ProcessorSeconds() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The best of several, because the first one also pays for memory.
template <typename Work>
double BestSeconds(const Work& work, int rounds = 3) {
  double best = 1e9;
  for (int i = 0; i < rounds; ++i) {
    const double start = ProcessorSeconds();
    work();
    best = std::min(best, ProcessorSeconds() - start);
  }
  return best;
}

std::string Repeat(const std::string& unit, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += unit;
  return text;
}

double EncodeSeconds(const Tokenizer& tokenizer, const std::string& unit, size_t bytes, int rounds = 3) {
  const std::string text = Repeat(unit, bytes);
  return BestSeconds([&] { ASSERT_TRUE(tokenizer.Encode(text, true).ok()); }, rounds);
}

void ExpectAlmostLinear(const Tokenizer& tokenizer, const std::string& unit) {
  const double small = EncodeSeconds(tokenizer, unit, 32 << 10);
  const double large = EncodeSeconds(tokenizer, unit, 128 << 10);
  EXPECT_LT(large, 10 * std::max(small, 1e-3)) << '"' << unit << "\": " << small << " s, " << large << " s";
}

struct Kind {
  const char* name;
  Json (*tokenizer)();
  friend void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }
};

class Scaling : public testing::TestWithParam<Kind> {};

TEST_P(Scaling, EncodingIsAlmostLinearInARepeatedText) {
  const auto tokenizer = Load(GetParam().tokenizer());
  for (const std::string unit :
       {"a", " ", "a b ", "A", "!", "1", "\n", "🙂", "中", "\u0301", "\uFDFA", "</s>", "<"}) {
    ExpectAlmostLinear(*tokenizer, unit);
  }
  ExpectAlmostLinear(*tokenizer, std::string(99, 'a') + " ");
}

// One word of 4 MiB, and many of the longest that WordPiece takes apart. 32 times the text may take 160 times as long
// (n log n: 41 times, and 2.4 times that where the caches are outgrown; n squared: 1024 times): so quadratic work that
// is a seventh of the time at 128 KiB already fails.
TEST_P(Scaling, FourMebibytesOfOneLetterCostTheirShare) {
  const auto tokenizer = Load(GetParam().tokenizer());
  for (const std::string& unit : {std::string("a"), std::string(99, 'a') + " "}) {
    const double small = EncodeSeconds(*tokenizer, unit, 128 << 10);
    const double large = EncodeSeconds(*tokenizer, unit, 4 << 20, 1);
    EXPECT_LT(large, 160 * small) << small << " s, " << large << " s";
    EXPECT_LT(large, 30);
  }
}

TEST_P(Scaling, AStreamedTokenCostsTheSameHoweverLongTheStream) {
  const auto tokenizer = Load(GetParam().tokenizer());
  const std::vector<int32_t> ids = *tokenizer->Encode("hello a world", false);
  const auto seconds = [&](size_t count) {
    return BestSeconds([&] {
      DecodeStream stream(tokenizer);
      for (size_t i = 0; i < count; ++i) ASSERT_TRUE(stream.Push(ids[i % ids.size()]).ok());
    });
  };
  const double small = seconds(2000), large = seconds(8000);
  EXPECT_LT(large, 10 * small);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Scaling,
                         testing::Values(Kind{"ByteLevel", ByteLevelTokenizer},
                                         Kind{"ByteFallback", ByteFallbackTokenizer}, Kind{"Unigram", UnigramTokenizer},
                                         Kind{"WordPiece", WordPieceTokenizer}),
                         [](const auto& kind) { return kind.param.name; });

TEST(ScalingOfAddedTokens, TokensThatLookAtTheirSurroundingsAreAlmostLinear) {
  Json json = ByteLevelTokenizer();
  json["added_tokens"][0]["lstrip"] = json["added_tokens"][0]["rstrip"] = true;
  json["added_tokens"][1]["single_word"] = true;
  const auto tokenizer = Load(json);
  for (const std::string unit : {"<s>", " <s>", "</s>", "</s> ", "a</s>"}) ExpectAlmostLinear(*tokenizer, unit);
}

TEST(ScalingOfWords, AMebibyteOfTheCostliestWordsTakesSeconds) {
  Json json = WordPieceTokenizer();
  json["model"]["max_input_chars_per_word"] = 200;
  json["model"]["vocab"].erase("##aaaa");
  const auto tokenizer = Load(json);
  EXPECT_LT(EncodeSeconds(*tokenizer, std::string(200, 'a') + " ", 1 << 20, 1), 60);
}

TEST(ScalingOfWords, WordPieceFilesWithLongerWordsAreRefused) {
  Json json = WordPieceTokenizer();
  json["model"]["max_input_chars_per_word"] = 201;
  const absl::Status status = CheckpointFolder().Write("tokenizer.json", json.dump()).TryLoad().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), "tokenizer.json: model.max_input_chars_per_word: 201 is outside 0..200");
}

}  // namespace
}  // namespace automodeld
