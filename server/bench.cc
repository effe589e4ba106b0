#include "server/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "server/terminal.h"

namespace automodeld {
namespace {

double NearestRank(const std::vector<double>& sorted, double percent) {
  const auto rank = static_cast<size_t>(std::ceil(percent / 100 * static_cast<double>(sorted.size())));
  return sorted[std::max<size_t>(rank, 1) - 1];
}

nlohmann::json InMilliseconds(const Percentiles& seconds) {
  return {{"p50", 1e3 * seconds.p50}, {"p90", 1e3 * seconds.p90}, {"p99", 1e3 * seconds.p99}};
}

std::string MillisecondsText(const Percentiles& seconds) {
  return fmt::format("p50 {:.2f} ms, p90 {:.2f} ms, p99 {:.2f} ms", 1e3 * seconds.p50, 1e3 * seconds.p90,
                     1e3 * seconds.p99);
}

}  // namespace

Percentiles ToPercentiles(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  return {NearestRank(values, 50), NearestRank(values, 90), NearestRank(values, 99)};
}

void BenchSamples::Add(const BenchResult& result) {
  const std::lock_guard lock(mutex_);
  if (!result.error.empty()) {
    ++counts_.errors;
    ++counts_.errors_by_code[result.error];
    return;
  }
  ++counts_.requests;
  inputs_ += result.inputs;
  input_tokens_ += result.input_tokens;
  output_tokens_ += result.output_tokens;
  latency_.push_back(result.latency);
  if (result.first_token >= 0) first_token_.push_back(result.first_token);
  inter_token_.insert(inter_token_.end(), result.inter_token.begin(), result.inter_token.end());
}

BenchSummary BenchSamples::Summarise(double seconds) const {
  const std::lock_guard lock(mutex_);
  BenchSummary summary = counts_;
  summary.seconds = seconds;
  const auto rate = [&](int64_t count) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; };
  summary.requests_per_second = rate(summary.requests);
  summary.inputs_per_second = rate(inputs_);
  summary.input_tokens_per_second = rate(input_tokens_);
  summary.output_tokens_per_second = rate(output_tokens_);
  summary.latency = ToPercentiles(latency_);
  summary.first_token = ToPercentiles(first_token_);
  summary.inter_token = ToPercentiles(inter_token_);
  return summary;
}

std::string BenchSummary::ToJson() const {
  return nlohmann::json{{"requests", requests},
                        {"errors", errors},
                        {"errors_by_code", errors_by_code},
                        {"seconds", seconds},
                        {"requests_per_second", requests_per_second},
                        {"inputs_per_second", inputs_per_second},
                        {"input_tokens_per_second", input_tokens_per_second},
                        {"output_tokens_per_second", output_tokens_per_second},
                        {"latency_ms", InMilliseconds(latency)},
                        {"time_to_first_token_ms", InMilliseconds(first_token)},
                        {"inter_token_latency_ms", InMilliseconds(inter_token)}}
      .dump();
}

std::string BenchSummary::ToText() const {
  std::vector<std::vector<std::string>> rows = {
      {"requests", fmt::format("{} in {:.2f} s, {} failed", requests, seconds, errors)}};
  for (const auto& [code, count] : errors_by_code) rows.push_back({"  " + code, fmt::format("{}", count)});
  rows.push_back({"throughput", fmt::format("{:.1f} requests/s, {:.0f} input tokens/s, {:.0f} output tokens/s",
                                            requests_per_second, input_tokens_per_second, output_tokens_per_second)});
  rows.push_back({"latency", MillisecondsText(latency)});
  if (first_token.p50 > 0) rows.push_back({"time to first token", MillisecondsText(first_token)});
  if (inter_token.p50 > 0) rows.push_back({"inter-token latency", MillisecondsText(inter_token)});
  return Table(rows);
}

}  // namespace automodeld
