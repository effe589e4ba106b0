#include "core/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "core/version.h"

namespace automodeld {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Metrics, TheDocumentIsTheTable) {
  std::ifstream file(std::string(AUTOMODELD_SOURCE_DIR) + "/docs/metrics.md");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_EQ(text.str(), MetricsMarkdown()) << "docs/metrics.md should be:\n" << MetricsMarkdown();
}

TEST(Metrics, EveryRowIsExportedWithItsTypeAndHelp) {
  Metrics metrics;
  metrics.ForModel("m");
  metrics.CountRequest("Generate", "m", "OK");
  metrics.CountFallback("m", "fp8_config");
  const std::string text = metrics.Serialize();
  const char* const kTypes[] = {"counter", "gauge", "histogram"};
  for (const MetricRow& row : MetricsTable()) {
    const std::string name = row.name;
    EXPECT_THAT(text, HasSubstr("# HELP " + name + " " + row.help));
    EXPECT_THAT(text, HasSubstr("# TYPE " + name + " " + kTypes[static_cast<int>(row.type)]));
  }
}

TEST(Metrics, RowsNameTheirLabels) {
  Metrics metrics;
  metrics.ForModel("m");
  metrics.CountRequest("Generate", "m", "OK");
  metrics.CountFallback("m", "fp8_config");
  const std::string text = metrics.Serialize();
  for (const MetricRow& row : MetricsTable()) {
    // "a,b" -> each of them stands in a line of this metric.
    std::stringstream labels(row.labels);
    for (std::string label; std::getline(labels, label, ',');) {
      const size_t line = text.find("\n" + std::string(row.name));
      ASSERT_NE(line, std::string::npos) << row.name;
      EXPECT_THAT(text.substr(line, text.find('\n', line + 1) - line), HasSubstr(label + "=\"")) << row.name;
    }
  }
}

TEST(Metrics, RequestsAreCountedByMethodModelAndCode) {
  Metrics metrics;
  metrics.CountRequest("Generate", "m", "OK");
  metrics.CountRequest("Generate", "m", "OK");
  metrics.CountRequest("Embed", "", "NOT_FOUND");
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("automodeld_requests_total{code=\"OK\",method=\"Generate\",model=\"m\"} 2"));
  EXPECT_THAT(text, HasSubstr("automodeld_requests_total{code=\"NOT_FOUND\",method=\"Embed\",model=\"\"} 1"));
}

TEST(Metrics, ModelsHaveTheirOwnAndKeepThem) {
  Metrics metrics;
  metrics.ForModel("a")->prompt_tokens.Increment(5);
  metrics.ForModel("b")->prompt_tokens.Increment(7);
  EXPECT_EQ(metrics.ForModel("a"), metrics.ForModel("a"));
  EXPECT_THAT(metrics.Serialize(), HasSubstr("automodeld_prompt_tokens_total{model=\"a\"} 5"));
  EXPECT_THAT(metrics.Serialize(), HasSubstr("automodeld_prompt_tokens_total{model=\"b\"} 7"));
}

TEST(Metrics, BuildInfoTellsVersionAndCommitApart) {
  const std::string text = Metrics().Serialize();
  const std::string release = Version().substr(0, Version().find('+'));
  EXPECT_THAT(text, HasSubstr("version=\"" + release + "\"} 1"));
  EXPECT_THAT(text, Not(HasSubstr("version=\"" + release + "+")));
}

}  // namespace
}  // namespace automodeld
