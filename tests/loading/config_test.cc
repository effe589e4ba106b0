#include "core/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/json.h"
#include "core/listing.h"
#include "tests/loading/checkpoint_folder.h"

namespace automodeld {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Config Parsed(const std::string& text) { return Config::Parse(text, "config.json").value(); }

TEST(Config, WhatIsNoObjectIsRefused) {
  for (const std::string text : {"", "{", "[]", "7", "null", "{'a': 1}", "{\"a\": \"\xff\"}", "{\"a\": 1e999}"}) {
    EXPECT_EQ(Config::Parse(text, "config.json").status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_FALSE(Config::Parse(std::string("{}\0{}", 5), "config.json").ok());
}

TEST(Config, NestingAndSizeAreBounded) {
  const auto nested = [](int depth) {
    return "{\"a\":" + std::string(static_cast<size_t>(depth - 1), '[') +
           std::string(static_cast<size_t>(depth - 1), ']') + "}";
  };
  EXPECT_TRUE(Config::Parse(nested(kMaxJsonDepth), "config.json").ok());
  EXPECT_EQ(Config::Parse(nested(kMaxJsonDepth + 1), "config.json").status().message(),
            "config.json: nesting of 65 is outside 0..64");
  EXPECT_FALSE(Config::Parse(nested(1000000), "config.json").ok());
  EXPECT_TRUE(Config::Parse(R"({"a": "[[\"[[[{{"})", "config.json").ok());  // brackets in strings do not nest
  EXPECT_FALSE(Config::Parse("{}" + std::string(kMaxJsonBytes, ' '), "config.json").ok());
}

TEST(Config, AMissingFileIsNotFoundAndNamedWithoutItsFolder) {
  const CheckpointFolder folder;
  const absl::Status status = Config::Read(folder.path(), "config.json").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "config.json: no such file");
}

TEST(Config, OverridesMergeObjectsKeyByKey) {
  Config config = Parsed(R"({"a": 1, "rope": {"type": "linear", "factor": 2}, "list": [1, 2]})");
  ASSERT_TRUE(config.Override(R"({"rope": {"factor": 4}, "list": [3], "new": true, "a": null})").ok());
  EXPECT_EQ(config.json().dump(), R"({"a":null,"list":[3],"new":true,"rope":{"factor":4,"type":"linear"}})");
  EXPECT_THAT(std::string(config.Override("[]").message()), HasSubstr("config_overrides: a list is not a JSON object"));
  EXPECT_THAT(std::string(config.Override("{").message()), HasSubstr("config_overrides: not valid JSON"));
}

TEST(ConfigReader, AbsentAndNullKeysTakeTheDefault) {
  const Config config = Parsed(R"({"null": null})");
  ConfigReader read(config);
  for (const std::string key : {"null", "absent"}) {
    EXPECT_EQ(read.Int(key, 7, 0, 9), 7);
    EXPECT_EQ(read.Double(key, 0.5, 0, 1), 0.5);
    EXPECT_TRUE(read.Bool(key, true));
    EXPECT_EQ(read.String(key, "x"), "x");
    EXPECT_TRUE(read.Ints(key).empty());
    EXPECT_TRUE(read.Strings(key).empty());
    EXPECT_FALSE(read.Has(key));
    EXPECT_EQ(ConfigReader(read, key).Int("inner", 3, 0, 9), 3);
  }
  EXPECT_TRUE(read.Null("null"));
  EXPECT_FALSE(read.Null("absent"));
  EXPECT_TRUE(read.status().ok());
}

TEST(ConfigReader, ValuesInRangeAreRead) {
  const Config config =
      Parsed(R"({"i": 3, "f": 4096.0, "d": 1e-6, "b": false, "s": "silu", "l": [1, 2], "o": {"x": 9}})");
  ConfigReader read(config);
  EXPECT_EQ(read.Int("i", 0, 3, 3), 3);
  EXPECT_EQ(read.Int("f", 0, 0, 5000), 4096);
  EXPECT_EQ(read.RequireInt("i", 0, 9), 3);
  EXPECT_EQ(read.Double("d", 0, 0, 1), 1e-6);
  EXPECT_EQ(read.Double("i", 0, 0, 9), 3.0);
  EXPECT_FALSE(read.Bool("b", true));
  EXPECT_EQ(read.String("s", ""), "silu");
  EXPECT_THAT(read.Ints("l"), ElementsAre(1, 2));
  EXPECT_THAT(read.Ints("i"), ElementsAre(3));
  EXPECT_THAT(read.Strings("s"), ElementsAre("silu"));
  EXPECT_EQ(ConfigReader(read, "o").Int("x", 0, 0, 9), 9);
  EXPECT_TRUE(read.status().ok()) << read.status();
}

TEST(ConfigReader, EveryErrorIsListedOnceWithKeyValueAndRange) {
  const Config config = Parsed(R"({"low": -3, "high": 18446744073709551615, "frac": 1.5, "text": "abc", "obj": {},
                                   "nested": {"x": 11}, "flag": 1, "list": [1, "2"], "plain": 5})");
  ConfigReader read(config);
  EXPECT_EQ(read.Int("low", 64, 1, 1 << 20), 64);
  read.Int("high", 0, 0, 9);
  read.Int("frac", 0, 0, 9);
  read.Int("text", 0, 0, 9);
  read.Double("obj", 0, 0, 9);
  ConfigReader(read, "nested").Int("x", 0, 0, 9);
  ConfigReader(read, "plain").Int("x", 0, 0, 9);
  read.Bool("flag", true);
  read.Ints("list");
  read.RequireInt("gone", 1, 9);
  read.Fail("act", "\"x\" is not one of y");
  EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(read.status().message(),
            "config.json: low: -3 is outside 1..1048576; "
            "config.json: high: 18446744073709551615 is outside 0..9; "
            "config.json: frac: 1.5 is not an integer; "
            "config.json: text: \"abc\" is not an integer; "
            "config.json: obj: an object is not a number; "
            "config.json: nested.x: 11 is outside 0..9; "
            "config.json: plain: 5 is not an object; "
            "config.json: flag: 1 is not true or false; "
            "config.json: list: \"2\" is not an integer; "
            "config.json: gone: is required; "
            "config.json: act: \"x\" is not one of y");
}

TEST(ConfigReader, AnEndlessListOfErrorsIsCut) {
  const Config config = Parsed("{}");
  ConfigReader read(config);
  for (int i = 0; i < 1000; ++i) read.Fail("key", "bad");
  EXPECT_THAT(std::string(read.status().message()), HasSubstr("; and 980 more"));
}

TEST(Listing, HostileListsAndLongNamesAreCutBetweenCharacters) {
  EXPECT_EQ(Listed({"a", "b"}), "a, b");
  EXPECT_THAT(Listed(std::vector<std::string>(10'000, "model.layers.0.x")), testing::EndsWith(", model.layers.0.x"));
  const std::string hostile = Listed(std::vector<std::string>(100'000, std::string(100, 'x')));
  EXPECT_THAT(hostile, testing::EndsWith("x, and 94757 more"));
  EXPECT_LT(hostile.size(), 600U << 10);
  std::string umlauts;
  for (int i = 0; i < 150; ++i) umlauts += "\xc3\xa4";
  EXPECT_EQ(Shortened("x" + umlauts).size(), 199U + 3U);  // 200 would be half an umlaut
}

}  // namespace
}  // namespace automodeld
