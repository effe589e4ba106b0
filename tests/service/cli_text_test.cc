// What commands print: tables, numbers, nearest names, benchmarks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "server/bench.h"
#include "server/nearest.h"
#include "server/similarity.h"
#include "server/terminal.h"

namespace automodeld {
namespace {

TEST(Similarity, TableHasARowAndAColumnForEachText) {
  const std::vector<std::vector<float>> vectors = {{1, 0}, {0.6F, 0.8F}, {-2, 0}};
  EXPECT_EQ(SimilarityTable({"A cat", "A kitten", "Ein Kätzchen"}, vectors),
            "                      1       2       3\n"
            "1  A cat          1.000   0.600  -1.000\n"
            "2  A kitten       0.600   1.000  -0.600\n"
            "3  Ein Kätzchen  -1.000  -0.600   1.000\n");
}

TEST(Similarity, TextThatFailedHasDashes) {
  EXPECT_EQ(SimilarityTable({"a", "b"}, {{1}, {}}),
            "          1  2\n"
            "1  a  1.000  -\n"
            "2  b      -  -\n");
}

TEST(Similarity, IsIndependentOfLengthAndZeroForAZeroVector) {
  EXPECT_NEAR(Cosine({3, 4}, {30, 40}), 1.0, 1e-12);
  EXPECT_NEAR(Cosine({1, 0}, {0, 5}), 0.0, 1e-12);
  EXPECT_EQ(Cosine({0, 0}, {1, 1}), 0.0);
}

TEST(Terminal, LongTextIsCutBetweenCharacters) {
  EXPECT_EQ(Shortened("abcdef", 6), "abcdef");
  EXPECT_EQ(Shortened("abcdefg", 6), "abcde…");
  EXPECT_EQ(Shortened("äöüäöüä", 3), "äö…");
  EXPECT_EQ(Shortened("two\nlines", 20), "two lines");
}

TEST(Terminal, BytesAndCountsReadWell) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(int64_t{16} << 30), "16.0 GiB");
  EXPECT_EQ(HumanCount(938), "938");
  EXPECT_EQ(HumanCount(6'900'000), "6.9 M");
  EXPECT_EQ(HumanCount(8'030'000'000), "8.0 B");
}

struct FakeTerminal {
  std::istringstream in;
  std::ostringstream out, err;
};

TEST(Terminal, ProgressIsDrawnOnATerminalOnlyAndWipedAway) {
  FakeTerminal pipe;
  Terminal plain{pipe.in, pipe.out, pipe.err};
  { ProgressBar(plain).Show("weights", 1, 2, 3); }
  EXPECT_EQ(pipe.err.str(), "");

  FakeTerminal tty;
  Terminal terminal{tty.in, tty.out, tty.err, true, true, true};
  { ProgressBar(terminal).Show("weights", 1 << 20, 2 << 20, 3); }
  EXPECT_EQ(tty.err.str(),
            "\rweights    [############            ]  50 %  1.0 MiB of 2.0 MiB  3 s\033[K"
            "\r\033[K");
}

TEST(Terminal, ColoursNeedATerminal) {
  FakeTerminal streams;
  EXPECT_EQ((Terminal{streams.in, streams.out, streams.err}.Red("x")), "x");
  EXPECT_EQ((Terminal{streams.in, streams.out, streams.err, true, true, true}.Red("x")), "\033[31mx\033[0m");
}

TEST(Nearest, IsTheNameWithTheFewestEditsUnlessAllAreFarAway) {
  const std::vector<std::string> names = {"max_queue_size", "max_message_bytes", "listen"};
  EXPECT_EQ(Nearest("max_que_size", names), "max_queue_size");
  EXPECT_EQ(Nearest("lisen", names), "listen");
  EXPECT_EQ(Nearest("temperature", names), "");
  EXPECT_EQ(Nearest("x", {}), "");
}

TEST(Bench, PercentilesAreValuesThatWereMeasured) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  const Percentiles percentiles = ToPercentiles(values);
  EXPECT_EQ(percentiles.p50, 50);
  EXPECT_EQ(percentiles.p90, 90);
  EXPECT_EQ(percentiles.p99, 99);
  EXPECT_EQ(ToPercentiles({7}).p50, 7);
  EXPECT_EQ(ToPercentiles({}).p99, 0);
}

TEST(Bench, TextHasThroughputAndPercentilesOfEachLatency) {
  BenchSamples samples;
  samples.Add({.error = "UNAVAILABLE"});
  samples.Add(
      {.input_tokens = 10, .output_tokens = 3, .latency = 0.5, .first_token = 0.25, .inter_token = {0.1, 0.15}});
  EXPECT_EQ(samples.Summarise(2).ToText(),
            "requests             1 in 2.00 s, 1 failed\n"
            "  UNAVAILABLE        1\n"
            "throughput           0.5 requests/s, 5 input tokens/s, 2 output tokens/s\n"
            "latency              p50 500.00 ms, p90 500.00 ms, p99 500.00 ms\n"
            "time to first token  p50 250.00 ms, p90 250.00 ms, p99 250.00 ms\n"
            "inter-token latency  p50 100.00 ms, p90 150.00 ms, p99 150.00 ms\n");
}

TEST(Bench, FailedCallsCountAsErrorsAndNothingElse) {
  BenchSamples samples;
  samples.Add({.error = "UNAVAILABLE", .input_tokens = 1000, .output_tokens = 1000, .latency = 1000});
  samples.Add(
      {.input_tokens = 10, .output_tokens = 3, .latency = 0.5, .first_token = 0.25, .inter_token = {0.1, 0.15}});
  const auto json = nlohmann::json::parse(samples.Summarise(2).ToJson());
  EXPECT_EQ(json["requests"], 1);
  EXPECT_EQ(json["errors"], 1);
  EXPECT_EQ(json["errors_by_code"]["UNAVAILABLE"], 1);
  EXPECT_EQ(json["requests_per_second"], 0.5);
  EXPECT_EQ(json["inputs_per_second"], 0.5);
  EXPECT_EQ(json["input_tokens_per_second"], 5.0);
  EXPECT_EQ(json["output_tokens_per_second"], 1.5);
  EXPECT_EQ(json["time_to_first_token_ms"]["p50"], 250.0);
  EXPECT_EQ(json["inter_token_latency_ms"]["p99"], 150.0);
  EXPECT_EQ(json["latency_ms"]["p99"], 500.0);
}

}  // namespace
}  // namespace automodeld
