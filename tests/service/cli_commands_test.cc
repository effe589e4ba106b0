// Every client command against a daemon with fake models.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/service/cli_runner.h"
#include "tests/service/test_daemon.h"

namespace automodeld {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class CliCommands : public ::testing::Test {
 protected:
  CliResult Run(std::vector<std::string> arguments, CliWorld world = {}) {
    world.environment["AUTOMODELD_SERVER"] = daemon_.daemon().addresses().listen;
    world.load = daemon_.loader().function();
    return RunCli(std::move(arguments), world);
  }

  TestDaemon daemon_{{"decoder", "encoder"},
                     [](DaemonConfig& config, FakeLoader&) { config.model_root = ::testing::TempDir(); }};
};

std::vector<json> Lines(const std::string& text) {
  std::vector<json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
  return lines;
}

TEST_F(CliCommands, GenerateWritesTheTextAndNothingElse) {
  const Answer expected = Generate(daemon_.inference(), TextRequest("decoder", "abc", 8));
  const CliResult result = Run({"generate", "decoder", "abc", "--max-tokens", "8", "--temperature", "0"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, expected.text.at(0) + "\n");
  EXPECT_EQ(result.err, "");
}

TEST_F(CliCommands, GenerateReadsThePromptFromStdin) {
  const CliResult given = Run({"generate", "decoder", "abc", "--max-tokens", "8", "--temperature", "0"});
  const CliResult read = Run({"generate", "decoder", "-", "--max_tokens=8", "--temperature", "0"}, {.in = "abc\n"});
  EXPECT_EQ(read.code, 0) << read.err;
  EXPECT_EQ(read.out, given.out);
}

TEST_F(CliCommands, GenerateWritesEachMessageAsALineOfJson) {
  const CliResult result = Run({"generate", "decoder", "abc", "--max-tokens", "8", "--json"});
  EXPECT_EQ(result.code, 0) << result.err;
  const std::vector<json> lines = Lines(result.out);
  ASSERT_FALSE(lines.empty());
  size_t num_tokens = 0;
  for (const json& line : lines) num_tokens += line.value("token_ids", json::array()).size();
  EXPECT_EQ(num_tokens, 8U);
  EXPECT_EQ(lines.back()["usage"]["completion_tokens"], 8);
}

TEST_F(CliCommands, GenerateKeepsSeveralCompletionsApart) {
  const CliResult result = Run({"generate", "decoder", "abc", "--max-tokens", "4", "--n", "2"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("[0] "));
  EXPECT_THAT(result.out, HasSubstr("[1] "));
}

TEST_F(CliCommands, GenerateTakesTokens) {
  const CliResult result = Run({"generate", "decoder", "--token-ids", "256,97,98", "--max-tokens", "4", "--json"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(Lines(result.out).back()["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(Lines(result.out).back()["usage"]["completion_tokens"], 4);
}

TEST_F(CliCommands, GenerateSendsAConversationWithTheSystemsTurn) {
  const auto prompt_tokens = [&](const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {"generate", "decoder", "Hi", "--max-tokens", "4", "--json"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const CliResult result = Run(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return Lines(result.out).back()["usage"]["prompt_tokens"].get<int>();
  };
  EXPECT_LT(prompt_tokens({}), prompt_tokens({"--chat"}));
  EXPECT_LT(prompt_tokens({"--chat"}), prompt_tokens({"--chat", "--system", "Be brief"}));
}

TEST_F(CliCommands, ErrorsAreOneLineWithTheCode) {
  const CliResult unknown = Run({"generate", "nobody", "abc"});
  EXPECT_EQ(unknown.code, 1);
  EXPECT_THAT(unknown.err, StartsWith("automodeld: NOT_FOUND: model \"nobody\""));
  EXPECT_EQ(std::count(unknown.err.begin(), unknown.err.end(), '\n'), 1);
  const CliResult range = Run({"generate", "decoder", "abc", "--max-tokens", "0"});
  EXPECT_EQ(range.code, 1);
  EXPECT_THAT(range.err, StartsWith("automodeld: INVALID_ARGUMENT: "));
}

TEST_F(CliCommands, GenerateObeysItsTimeout) {
  const auto steps = daemon_.loader().steps("decoder");
  steps->Hold();
  const CliResult result = Run({"generate", "decoder", "abc", "--timeout", "50ms"});
  steps->Release();
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, StartsWith("automodeld: DEADLINE_EXCEEDED"));
}

TEST_F(CliCommands, TimeoutOfTheEnvironmentIsCheckedAsTheFlag) {
  const Environment wrong = {{"AUTOMODELD_TIMEOUT", "30"}};
  const CliResult result = Run({"models"}, {.environment = wrong});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, StartsWith("automodeld: AUTOMODELD_TIMEOUT: \"30\" is not a duration such as 30s or 2m"));
  EXPECT_EQ(Run({"models", "--timeout", "30s"}, {.environment = wrong}).code, 0);
  EXPECT_EQ(Run({"serve", "--help"}, {.environment = wrong}).code, 0);
  EXPECT_EQ(Run({"models"}, {.environment = {{"AUTOMODELD_TIMEOUT", "30s"}}}).code, 0);
  const CliResult late = Run({"bench", "--model", "decoder"}, {.environment = {{"AUTOMODELD_TIMEOUT", "1ns"}}});
  EXPECT_THAT(late.err, StartsWith("automodeld: DEADLINE_EXCEEDED"));
}

// A daemon whose models fail in their sixth step.
class CliGenerateFailing : public ::testing::Test {
 protected:
  CliResult Run(std::vector<std::string> arguments) {
    return RunCli(std::move(arguments), {.environment = {{"AUTOMODELD_SERVER", daemon_.daemon().addresses().listen}}});
  }

  TestDaemon daemon_{{"decoder"}, [](DaemonConfig&, FakeLoader& loader) { loader.fail_wait_at = 5; }};
};

TEST_F(CliGenerateFailing, TheErrorStandsOnALineOfItsOwn) {
  const CliResult result = Run({"generate", "decoder", "abc", "--max-tokens", "40"});
  EXPECT_EQ(result.code, 1);
  EXPECT_GT(result.out.size(), 1U);
  EXPECT_EQ(result.out.back(), '\n');
  EXPECT_THAT(result.err, StartsWith("automodeld: INTERNAL: "));
}

TEST_F(CliGenerateFailing, WhatThereIsOfSeveralCompletionsIsWritten) {
  const CliResult result = Run({"generate", "decoder", "abc", "--max-tokens", "40", "--n", "2"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.out, ::testing::MatchesRegex("\\[0\\] [a-z]+\n\\[1\\] [a-z]+\n"));
}

TEST_F(CliCommands, EmbedShowsARowForEachText) {
  const CliResult result = Run({"embed", "encoder", "one", "two"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("one  "));
  EXPECT_THAT(result.out, HasSubstr("tokens, 8 numbers: "));
}

TEST_F(CliCommands, EmbedPrintsASimilarityTable) {
  const CliResult result = Run({"embed", "encoder", "--similarity", "one", "one"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out,
            "            1      2\n"
            "1  one  1.000  1.000\n"
            "2  one  1.000  1.000\n");
}

TEST_F(CliCommands, EmbedReadsATextALineAndWritesAVectorALine) {
  const CliResult result = Run({"embed", "encoder", "-", "--json"}, {.in = "one\ntwo\nthree\n"});
  EXPECT_EQ(result.code, 0) << result.err;
  const std::vector<json> lines = Lines(result.out);
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[2]["values"].size(), 8U);
}

TEST_F(CliCommands, EmbedSaysWhichTextFailed) {
  const CliResult result = Run({"embed", "encoder", "one", ""});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("text 2: "));
}

TEST_F(CliCommands, ModelsListsThemAndShowsOne) {
  const CliResult all = Run({"models"});
  EXPECT_EQ(all.code, 0) << all.err;
  EXPECT_THAT(all.out, StartsWith("MODEL "));
  EXPECT_THAT(all.out, HasSubstr("\ndecoder  READY"));
  EXPECT_THAT(all.out, HasSubstr("\nencoder  READY"));
  const CliResult one = Run({"models", "decoder", "--json"});
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_EQ(json::parse(one.out)["status"]["model"], "decoder");
  EXPECT_TRUE(json::parse(one.out).contains("report"));
  EXPECT_THAT(Run({"models", "decoder"}).out, HasSubstr("architecture"));
  EXPECT_EQ(Run({"models", "nobody"}).code, 1);
}

TEST_F(CliCommands, LoadSendsEveryFlagAndPrintsTheReport) {
  const CliResult result =
      Run({"load", "--config-json", "{\"model_type\":\"llama\"}", "--model", "decoder2", "--seed", "7", "--torch-dtype",
           "float32", "--fp8-config.recipe-name", "rowwise", "--no-allow-fallback"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("decoder2"));
  const LoadOptions options = daemon_.loader().requests().back();
  EXPECT_EQ(options.model, "decoder2");
  EXPECT_EQ(options.seed, 7U);
  EXPECT_EQ(options.torch_dtype, "float32");
  ASSERT_TRUE(options.fp8_config.has_value());
  EXPECT_EQ(options.fp8_config->recipe_name, "rowwise");
  EXPECT_FALSE(options.allow_fallback);
  EXPECT_EQ(Run({"unload", "decoder2"}).code, 0);
  EXPECT_EQ(Run({"models", "decoder2"}).code, 1);
}

TEST_F(CliCommands, LoadDrawsItsProgressOnATerminalAndWipesItAway) {
  const std::vector<std::string> load = {"load", "--config-json", "{}", "--model"};
  const auto run = [&](const std::string& model, bool terminal) {
    std::vector<std::string> arguments = load;
    arguments.push_back(model);
    return Run(arguments, {.terminal = terminal});
  };
  EXPECT_EQ(run("decoder4", true).err,
            "\rweights    [############            ]  50 %  1 B of 2 B  0 s\033[K"
            "\r\033[K");
  EXPECT_EQ(run("decoder5", false).err, "");
}

TEST_F(CliCommands, LoadOfAFolderThatIsNotThereFails) {
  const CliResult result = Run({"load", "nothing-here"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, StartsWith("automodeld: NOT_FOUND: "));
}

TEST_F(CliCommands, UnloadOfAModelThatIsNotThereFails) {
  const CliResult result = Run({"unload", "nobody", "--no-drain"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("NOT_FOUND"));
}

TEST_F(CliCommands, HealthTellsByItsExitCode) {
  EXPECT_EQ(Run({"health"}).out, "SERVING\n");
  EXPECT_EQ(Run({"health"}).code, 0);
  EXPECT_EQ(Run({"health", "decoder"}).code, 0);
  const CliResult unknown = Run({"health", "nobody"});
  EXPECT_EQ(unknown.code, 1);
  EXPECT_THAT(unknown.err, HasSubstr("NOT_FOUND"));
}

TEST_F(CliCommands, HealthWaitsForAModelThatComesLater) {
  CliResult result;
  std::thread waiting([&] { result = Run({"health", "decoder3", "--wait", "60s"}); });
  EXPECT_EQ(Run({"load", "--config-json", "{}", "--model", "decoder3"}).code, 0);
  waiting.join();
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "SERVING\n");
}

TEST_F(CliCommands, HealthHasOneTimeLimit) {
  EXPECT_EQ(Run({"health", "--wait", "60"}).code, 2);
  EXPECT_EQ(Run({"health", "--wait", "60s", "--timeout", "1s"}).code, 2);
}

TEST_F(CliCommands, HealthGivesUpAfterItsTime) {
  const CliResult result = Run({"health", "nobody", "--wait", "50ms"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.err, "automodeld: DEADLINE_EXCEEDED: not SERVING after 50ms\n");
}

TEST(CliWithoutDaemon, CommandsSayThatNobodyAnswers) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"models"}, {"generate", "m", "p"}, {"health"}, {"unload", "m"}}) {
    const CliResult result = RunCli(arguments, {.environment = {{"AUTOMODELD_SERVER", "127.0.0.1:1"}}});
    EXPECT_EQ(result.code, 1);
    EXPECT_THAT(result.err, StartsWith("automodeld: UNAVAILABLE: no daemon answers at 127.0.0.1:1"));
  }
}

TEST_F(CliCommands, BenchCountsWhatTheModelMade) {
  const CliResult result = Run({"bench", "--model", "decoder", "--requests", "6", "--concurrency", "3",
                                "--input-tokens", "5", "--output-tokens", "4", "--json"});
  EXPECT_EQ(result.code, 0) << result.err;
  const json summary = json::parse(result.out);
  EXPECT_EQ(summary["requests"], 6);
  EXPECT_EQ(summary["errors"], 0);
  const double seconds = summary["seconds"];
  EXPECT_NEAR(summary["output_tokens_per_second"].get<double>() * seconds, 24, 1e-6);
  EXPECT_NEAR(summary["input_tokens_per_second"].get<double>() * seconds, 30, 1e-6);
  EXPECT_GT(summary["time_to_first_token_ms"]["p50"].get<double>(), 0);
}

TEST_F(CliCommands, BenchEmbedsInBatches) {
  const CliResult result = Run({"bench", "--model", "encoder", "--mode", "embed", "--requests", "4", "--batch", "3",
                                "--text", "ab", "--text", "abcd"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, StartsWith("requests    4 in "));
}

TEST_F(CliCommands, BenchWhoseCallsFailSaysSoAndFails) {
  const CliResult result = Run({"bench", "--model", "encoder", "--requests", "2", "--json"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(json::parse(result.out)["errors_by_code"]["FAILED_PRECONDITION"], 2);
  EXPECT_THAT(result.err, StartsWith("automodeld: FAILED_PRECONDITION: "));
}

TEST_F(CliCommands, CheckLoadsNothingAndTellsByItsExitCode) {
  const std::string folder = ::testing::TempDir();
  const CliResult good = Run({"check", folder, "--model", "decoder"});
  EXPECT_EQ(good.code, 0) << good.err;
  EXPECT_THAT(good.out, HasSubstr("architecture"));
  EXPECT_TRUE(daemon_.loader().requests().back().check_only);
  const CliResult broken = Run({"check", folder, "--model", "broken"});
  EXPECT_EQ(broken.code, 1);
  EXPECT_THAT(broken.err, StartsWith("automodeld: FAILED_PRECONDITION: "));
  EXPECT_EQ(Run({"check", "/nonexistent"}).code, 1);
}

}  // namespace
}  // namespace automodeld
