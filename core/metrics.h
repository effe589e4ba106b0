// Every exported metric, once. Labels hold names of models, methods and codes, never a client's text.
//
//   Metrics metrics;
//   ModelMetrics* model = metrics.ForModel("llama");   // the model's children; made once, kept
//   model->prompt_tokens.Increment(17);
//   metrics.Serialize();                               // the text of /metrics
//
// Threads: any. docs/metrics.md is MetricsMarkdown(), made from MetricsTable() as the metrics themselves are.
#ifndef CORE_METRICS_H_
#define CORE_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>

namespace automodeld {

// One metric: a row of the table.
struct MetricRow {
  enum class Type { kCounter, kGauge, kHistogram };

  const char* name;
  Type type;
  const char* labels;  // comma-separated
  const char* help;
};

std::span<const MetricRow> MetricsTable();
std::string MetricsMarkdown();  // docs/metrics.md

// One model's metrics.
struct ModelMetrics {
  prometheus::Counter& prompt_tokens;
  prometheus::Counter& generated_tokens;
  prometheus::Histogram& queue_seconds;
  prometheus::Histogram& time_to_first_token_seconds;
  prometheus::Histogram& inter_token_seconds;
  prometheus::Histogram& step_seconds;
  prometheus::Histogram& step_host_seconds;
  prometheus::Gauge& running;
  prometheus::Gauge& waiting;
  prometheus::Gauge& kv_pages_used;
  prometheus::Gauge& kv_pages_total;
  prometheus::Gauge& kv_pages_mapped;
  prometheus::Counter& preemptions;
  prometheus::Gauge& load_seconds;
};

class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // The model's metrics, made at the first call and kept for the process's life.
  ModelMetrics* ForModel(const std::string& model);

  // automodeld_requests_total{method, model, code}: `model` must be a loaded model's name or empty.
  void CountRequest(const std::string& method, const std::string& model, const std::string& code);

  // automodeld_model_load_fallbacks_total{model, step}
  void CountFallback(const std::string& model, const std::string& step);

  // Prometheus text format 0.0.4.
  std::string Serialize() const;

 private:
  struct Families;
  std::shared_ptr<prometheus::Registry> registry_;
  std::unique_ptr<Families> families_;
  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<ModelMetrics>> models_;
};

}  // namespace automodeld

#endif  // CORE_METRICS_H_
