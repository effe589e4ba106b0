// What a benchmark measured, summed up.
//
//   BenchSamples samples;
//   samples.Add(result);                    // any thread
//   BenchSummary summary = samples.Summarise(seconds);
#ifndef SERVER_BENCH_H_
#define SERVER_BENCH_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace automodeld {

// One call. Times are in seconds.
struct BenchResult {
  std::string error{};  // name of the gRPC code; empty: OK, and the rest counts
  int64_t inputs = 1;
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  double latency = 0;
  double first_token = -1;            // since the call began; negative: no tokens
  std::vector<double> inter_token{};  // one per token after the first message
};

struct Percentiles {
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
};

struct BenchSummary {
  int64_t requests = 0;  // that succeeded
  int64_t errors = 0;
  std::map<std::string, int64_t> errors_by_code{};
  double seconds = 0;
  double requests_per_second = 0;
  double inputs_per_second = 0;  // of Embed: an input is a text or its tokens
  double input_tokens_per_second = 0;
  double output_tokens_per_second = 0;
  Percentiles latency{}, first_token{}, inter_token{};  // seconds

  std::string ToJson() const;  // times in milliseconds, as the names say
  std::string ToText() const;
};

class BenchSamples {
 public:
  void Add(const BenchResult& result);  // any thread
  BenchSummary Summarise(double seconds) const;

 private:
  mutable std::mutex mutex_;
  BenchSummary counts_;
  int64_t inputs_ = 0;
  int64_t input_tokens_ = 0;
  int64_t output_tokens_ = 0;
  std::vector<double> latency_, first_token_, inter_token_;
};

// By nearest rank: the smallest value that so many percent do not exceed; 0 where there are none.
Percentiles ToPercentiles(std::vector<double> values);

}  // namespace automodeld

#endif  // SERVER_BENCH_H_
