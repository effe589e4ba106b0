#include "core/engine/stop_finder.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace automodeld {
namespace {

TEST(StopFinder, WithoutStopStringsTextPassesAtOnce) {
  StopFinder stops({});
  EXPECT_EQ(stops.Push("hello"), "hello");
  EXPECT_EQ(stops.Flush(), "");
}

TEST(StopFinder, TextBeforeTheStopStringPassesAndNothingAfterIt) {
  StopFinder stops({"END"});
  EXPECT_EQ(stops.Push("abcENDdef"), "abc");
  EXPECT_TRUE(stops.found());
  EXPECT_EQ(stops.Push("ghi"), "");
  EXPECT_EQ(stops.Flush(), "");
}

TEST(StopFinder, HoldsBackOnlyTheLongestPossibleBeginning) {
  StopFinder stops({"END", "\n\nUser"});
  EXPECT_EQ(stops.Push("abcE"), "abc");
  EXPECT_EQ(stops.Push("NE"), "EN");
  EXPECT_EQ(stops.Push("x\n"), "Ex");
  EXPECT_EQ(stops.Push("\n"), "");
  EXPECT_EQ(stops.Push("\n"), "\n");
  EXPECT_FALSE(stops.found());
  EXPECT_EQ(stops.Flush(), "\n\n");
}

TEST(StopFinder, StopStringAcrossPiecesIsFound) {
  StopFinder stops({"END"});
  EXPECT_EQ(stops.Push("aE"), "a");
  EXPECT_EQ(stops.Push("N"), "");
  EXPECT_EQ(stops.Push("Dz"), "");
  EXPECT_TRUE(stops.found());
}

TEST(StopFinder, TheStopStringThatIsCompleteFirstCounts) {
  StopFinder stops({"abcd", "bc"});
  EXPECT_EQ(stops.Push("xabcd"), "xa");
}

TEST(StopFinder, OfTwoCompleteAtOnceTheLongerIsTrimmed) {
  StopFinder stops({"c", "abc"});
  EXPECT_EQ(stops.Push("xabc"), "x");
}

TEST(StopFinder, OutcomeDoesNotDependOnWhereTheTextIsCut) {
  std::mt19937 random(7);
  const auto draw = [&](int low, int high) { return std::uniform_int_distribution(low, high)(random); };
  const auto word = [&](int length) {
    std::string text;
    for (int i = 0; i < length; ++i) text += static_cast<char>('a' + draw(0, 1));
    return text;
  };
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stop_strings;
    for (int i = draw(1, 3); i > 0; --i) stop_strings.push_back(word(draw(1, 5)));
    const std::string text = word(draw(0, 20));
    StopFinder whole(stop_strings), cut(stop_strings);
    std::string expected = whole.Push(text);
    expected += whole.Flush();
    std::string got;
    for (size_t at = 0; at < text.size();) {
      const auto length = static_cast<size_t>(draw(1, 4));
      got += cut.Push(std::string_view(text).substr(at, length));
      at += length;
    }
    got += cut.Flush();
    ASSERT_EQ(got, expected) << text;
    ASSERT_EQ(cut.found(), whole.found());
    if (!whole.found()) {
      ASSERT_EQ(got, text);
    }
  }
}

}  // namespace
}  // namespace automodeld
