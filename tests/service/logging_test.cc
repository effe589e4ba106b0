#include "server/logging.h"

#include <gtest/gtest.h>
#include <spdlog/details/log_msg.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace automodeld {
namespace {

std::string Line(const std::string& message, spdlog::level::level_enum level = spdlog::level::info,
                 const std::unique_ptr<spdlog::formatter>& formatter = JsonLogFormatter()) {
  const spdlog::details::log_msg record(spdlog::source_loc{}, "automodeld", level, message);
  spdlog::memory_buf_t buffer;
  formatter->format(record, buffer);
  return {buffer.data(), buffer.size()};
}

// Without the time before it.
std::string TextLine(const std::string& message) {
  return Line(message, spdlog::level::info, TextLogFormatter()).substr(std::string("19:07:39.123 ").size());
}

TEST(TextLog, NoMessageBeginsALineOrMovesTheCursor) {
  EXPECT_EQ(TextLine("path \"a\n19:07:39.123 error forged\""), "info    path \"a\\n19:07:39.123 error forged\"\n");
  EXPECT_EQ(TextLine("\x1b[31m \r\t \x7f"), "info    \\x1b[31m \\x0d\\x09 \\x7f\n");
  EXPECT_EQ(TextLine("\xc2\x9b"), "info    \xc2\\x9b\n");
}

TEST(TextLog, MessagesThatAreTextStayAsTheyAre) {
  EXPECT_EQ(TextLine("a \\ \xc3\xa4\xe2\x80\x93\xf0\x9f\x99\x82"),
            "info    a \\ \xc3\xa4\xe2\x80\x93\xf0\x9f\x99\x82\n");
}

TEST(JsonLog, WhateverAMessageHoldsTheLineIsOneJsonObject) {
  std::string all_bytes;
  for (int byte = 0; byte < 256; ++byte) all_bytes += static_cast<char>(byte);
  const std::vector<std::string> messages = {"",
                                             "plain",
                                             "\"quoted\" \\ back",
                                             "two\nlines\r\ttab",
                                             all_bytes,
                                             "\xc3\xa4\xe2\x82\xac",
                                             "cut off \xe2\x82",
                                             "\xed\xa0\x80"};
  for (const std::string& message : messages) {
    const std::string line = Line(message);
    EXPECT_EQ(line.find('\n'), line.size() - 1) << line;
    const auto json = nlohmann::json::parse(line, nullptr, false);
    ASSERT_TRUE(json.is_object()) << line;
    EXPECT_EQ(json.size(), 3U);
  }
}

TEST(JsonLog, MessagesThatAreTextStayAsTheyAre) {
  for (const std::string message : {"a \"b\" \\ \n\t\x01", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82"}) {
    EXPECT_EQ(nlohmann::json::parse(Line(message))["message"], message);
  }
}

TEST(JsonLog, BytesThatAreNoTextBecomeReplacementCharacters) {
  EXPECT_EQ(nlohmann::json::parse(Line("a\xff"
                                       "b"))["message"],
            "a\xef\xbf\xbd"
            "b");
}

TEST(JsonLog, LevelAndTimeAreFieldsOfTheirOwn) {
  const auto json = nlohmann::json::parse(Line("x", spdlog::level::warn));
  EXPECT_EQ(json["level"], "warning");
  const std::string time = json["time"];
  EXPECT_EQ(time.size(), std::string("2026-11-23T19:07:39.123Z").size());
  EXPECT_EQ(time.back(), 'Z');
}

}  // namespace
}  // namespace automodeld
