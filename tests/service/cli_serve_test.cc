// `serve` in this process: what it prints, and how it fails.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <string>
#include <vector>

#include "server/daemon.h"
#include "tests/service/cli_runner.h"
#include "tests/service/fake_loader.h"

namespace automodeld {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::StartsWith;

// With the log off: what is not printed is lost. A model "broken" ends it after its banner.
CliResult Serve(std::vector<std::string> arguments, bool terminal = false) {
  const auto logger = spdlog::default_logger();
  FakeLoader loader;
  arguments.insert(arguments.begin(), {"serve", "--http-listen", "", "--log-level", "off"});
  const CliResult result = RunCli(std::move(arguments), {.load = loader.function(), .terminal = terminal});
  spdlog::set_default_logger(logger);
  return result;
}

TEST(CliServe, OpenAddressNeedsInsecureListen) {
  const CliResult result = Serve({"--listen", "0.0.0.0:0"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, MatchesRegex("automodeld: --listen: 0.0.0.0:0 [^\n]*--insecure-listen[^\n]*\n"));
}

TEST(CliServe, AModelThatCannotBeLoadedEndsItWithOneLine) {
  const CliResult result = Serve({"--listen", "127.0.0.1:0", "--model", "broken=/m"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.err,
            "automodeld: FAILED_PRECONDITION: model \"broken\" of /m: /m/model.safetensors: 3 tensors are missing\n");
}

TEST(CliServe, AnOpLibraryThatCannotBeLoadedEndsItWithOneLine) {
  EXPECT_EQ(Serve({"--listen", "127.0.0.1:0", "--op-library", "/nonexistent/libops.so"}).err,
            "automodeld: FAILED_PRECONDITION: --op-library: libops.so: no such file\n");
  const CliResult folder = Serve({"--listen", "127.0.0.1:0", "--op-library", ::testing::TempDir()});
  EXPECT_EQ(folder.code, 1);
  EXPECT_EQ(folder.out, "");
}

TEST(CliServe, LoadingDrawsABarOnATerminalAndWipesItAway) {
  const CliResult result = Serve({"--listen", "127.0.0.1:0", "--model", "broken=/m"}, true);
  EXPECT_THAT(result.err, StartsWith("\rweights    [############            ]  50 %  1 B of 2 B  0 s\033[K"
                                     "\r\033[Kautomodeld: FAILED_PRECONDITION: "));
}

TEST(CliServe, BannerTellsAddressesModelsRootAndLimits) {
  const CliResult closed = Serve({"--listen", "127.0.0.1:0", "--model", "broken=/m", "--max-queue-size", "7"});
  EXPECT_THAT(closed.out, MatchesRegex("automodeld [^\n]*\ngRPC +127\\.0\\.0\\.1:[0-9]+  all services\nHTTP +off\n"
                                       "model +broken = /m\nmodel root +none: LoadModel takes no path [^\n]*\n"
                                       "limits +queue 7 requests a model, [^\n]*\nthreads [^\n]*\n"));
  const CliResult open = Serve({"--listen", "0.0.0.0:0", "--insecure-listen", "--admin-listen", "127.0.0.1:0",
                                "--model-root", "/models", "--model", "broken=/m"});
  EXPECT_THAT(open.out, HasSubstr("  without LoadModel and UnloadModel\n"));
  EXPECT_THAT(open.out, ::testing::ContainsRegex("\nadmin +127\\.0\\.0\\.1:[0-9]+  all services\n"));
  EXPECT_THAT(open.out, ::testing::ContainsRegex("\nmodel root +/models\n"));
}

TEST(CliServe, BannerTellsHowManyThreadsThereReallyAre) {
  const std::vector<std::string> broken = {"--listen", "127.0.0.1:0", "--model", "broken=/m"};
  EXPECT_THAT(Serve(broken).out, EndsWith(fmt::format(", {} for tokenizing\n", NumWorkers({}))));
  std::vector<std::string> three = broken;
  three.insert(three.end(), {"--worker-threads", "3", "--threads", "2"});
  EXPECT_THAT(Serve(three).out, EndsWith("  2 for one operation, 3 for tokenizing\n"));
}

}  // namespace
}  // namespace automodeld
