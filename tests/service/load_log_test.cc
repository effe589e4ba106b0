// What the log says of a load: how severe, and of which model.
#include "server/load_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace automodeld {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// Lines such as "warning model a: ...", of LogLoaded alone.
std::vector<std::string> Logged(const LoadReport& report, bool check_only) {
  std::ostringstream text;
  const auto before = spdlog::default_logger();
  auto logger = std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_st>(text));
  logger->set_level(spdlog::level::trace);
  logger->set_pattern("%l %v");
  spdlog::set_default_logger(std::move(logger));
  LogLoaded(report, check_only);
  spdlog::set_default_logger(before);
  std::vector<std::string> lines;
  std::istringstream stream(text.str());
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

LoadReport Eventful() {
  LoadReport report;
  report.info.model = "a";
  report.attempts = {{"attn_implementation=flash_attention_2", "no GPU", "sdpa"}, {"fp8_config", "no FP8", "none"}};
  report.notes = {"sample stays eager: no fused version for cuda"};
  report.patches = {{"rms_norm", "eager", "cuda"}, {"act_mul", "eager", "mycorp::act_mul"}};
  report.decode_attention_ops = {"qkv_rope_write_kv"};
  report.fp8 = Fp8Report{.converted = 3, .total = 5, .success = true, .modules = {}, .skipped = {}};
  report.fp8->skipped = {{"model.q", "filter_fqns: q"}, {"lm_head", "include_lm_head is false"}};
  return report;
}

TEST(LoadLog, EachFactIsOneLineOfItsOwnSeverity) {
  EXPECT_THAT(
      Logged(Eventful(), false),
      ElementsAre(StartsWith("info loaded model=a "), "info model a: rms_norm patched: eager -> cuda",
                  "info model a: act_mul patched: eager -> mycorp::act_mul",
                  "info model a: qkv_rope_write_kv is done inside attention in decode steps of few sequences",
                  "warning model a: attn_implementation=flash_attention_2 failed (no GPU); sdpa is used",
                  "warning model a: fp8_config failed (no FP8); none is used",
                  "warning model a: sample stays eager: no fused version for cuda",
                  "info model a: fp8: 3 of 5 linears converted", "debug model a: fp8: model.q skipped: filter_fqns: q",
                  "debug model a: fp8: lm_head skipped: include_lm_head is false"));
}

TEST(LoadLog, OnlyWhatFailedIsCalledFailed) {
  LoadReport report = Eventful();
  report.attempts.clear();
  EXPECT_THAT(Logged(report, false), Not(Contains(HasSubstr("failed"))));
}

TEST(LoadLog, ACheckSaysWhatWouldBe) {
  EXPECT_THAT(Logged(Eventful(), true), AllOf(Contains(StartsWith("info checked model=a ")),
                                              Contains(HasSubstr("(no GPU); sdpa would be used"))));
}

TEST(LoadLog, AnUneventfulLoadIsOneLine) {
  LoadReport report;
  report.info.model = "a";
  EXPECT_THAT(Logged(report, false), ElementsAre(StartsWith("info loaded model=a ")));
}

}  // namespace
}  // namespace automodeld
