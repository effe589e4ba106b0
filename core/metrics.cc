#include "core/metrics.h"

#include <fmt/format.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <cassert>
#include <string_view>

#include "core/version.h"

namespace automodeld {
namespace {

using Type = MetricRow::Type;
using Buckets = prometheus::Histogram::BucketBoundaries;

constexpr std::array kTable = {
    MetricRow{"automodeld_requests_total", Type::kCounter, "method,model,code",
              "Calls that have ended, by method and gRPC status code; model is empty where it is not a loaded one"},
    MetricRow{"automodeld_prompt_tokens_total", Type::kCounter, "model", "Tokens of prompts and inputs processed"},
    MetricRow{"automodeld_generated_tokens_total", Type::kCounter, "model", "Tokens of completions made"},
    MetricRow{"automodeld_queue_seconds", Type::kHistogram, "model", "From a request's arrival to its first step"},
    MetricRow{"automodeld_time_to_first_token_seconds", Type::kHistogram, "model",
              "From a request's arrival to its first token"},
    MetricRow{"automodeld_inter_token_latency_seconds", Type::kHistogram, "model",
              "From one token of a completion to the next"},
    MetricRow{"automodeld_step_seconds", Type::kHistogram, "model", "From a step's launch to its results"},
    MetricRow{"automodeld_step_host_seconds", Type::kHistogram, "model",
              "What the engine thread works for a step; waiting for results is not in it"},
    MetricRow{"automodeld_running", Type::kGauge, "model", "Requests that have a slot"},
    MetricRow{"automodeld_waiting", Type::kGauge, "model", "Requests that wait for a slot"},
    MetricRow{"automodeld_kv_pages_used", Type::kGauge, "model", "KV pages in use"},
    MetricRow{"automodeld_kv_pages_total", Type::kGauge, "model", "KV pages there are"},
    MetricRow{"automodeld_kv_pages_mapped", Type::kGauge, "model",
              "KV pages that have memory; the others get it when they are needed"},
    MetricRow{"automodeld_preemptions_total", Type::kCounter, "model",
              "Sequences that gave their KV pages back to others and were computed again"},
    MetricRow{"automodeld_model_load_seconds", Type::kGauge, "model", "How long the model's last load took"},
    MetricRow{"automodeld_model_load_fallbacks_total", Type::kCounter, "model,step",
              "Steps of loading that fell back, as the load report lists them"},
    MetricRow{"automodeld_build_info", Type::kGauge, "version,commit", "Always 1"},
};

const MetricRow& Row(std::string_view name) {
  for (const MetricRow& row : kTable) {
    if (row.name == name) return row;
  }
  assert(false && "a metric that is not in the table");
  return kTable.front();
}

prometheus::Family<prometheus::Counter>& Counter(prometheus::Registry& registry, const char* name) {
  return prometheus::BuildCounter().Name(name).Help(Row(name).help).Register(registry);
}

prometheus::Family<prometheus::Gauge>& Gauge(prometheus::Registry& registry, const char* name) {
  return prometheus::BuildGauge().Name(name).Help(Row(name).help).Register(registry);
}

prometheus::Family<prometheus::Histogram>& Histogram(prometheus::Registry& registry, const char* name) {
  return prometheus::BuildHistogram().Name(name).Help(Row(name).help).Register(registry);
}

// Waits and first tokens: from a quick step to a minute in the queue. Steps and tokens: from a tiny model's to 2.5 s.
const Buckets kWaitBuckets = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
const Buckets kStepBuckets = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5};

// Hidden behind a GPU's step of some milliseconds, or not.
const Buckets kHostBuckets = {2e-5, 5e-5, 1e-4, 1.5e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 0.1, 1};

const char* TypeName(Type type) {
  switch (type) {
    case Type::kCounter:
      return "counter";
    case Type::kGauge:
      return "gauge";
    case Type::kHistogram:
      return "histogram";
  }
  return "";
}

}  // namespace

std::span<const MetricRow> MetricsTable() { return kTable; }

std::string MetricsMarkdown() {
  std::string text =
      "# Metrics\n\n"
      "Served at `/metrics` of `--http-listen`. Labels hold names of models, methods and codes, never a client's "
      "text.\n"
      "This page is the table in `core/metrics.cc`; a test compares the two.\n\n"
      "| name | type | labels | what it is |\n| --- | --- | --- | --- |\n";
  for (const MetricRow& row : kTable) {
    text += fmt::format("| `{}` | {} | {} | {} |\n", row.name, TypeName(row.type), row.labels, row.help);
  }
  return text;
}

struct Metrics::Families {
  explicit Families(prometheus::Registry& r)
      : requests(Counter(r, "automodeld_requests_total")),
        prompt_tokens(Counter(r, "automodeld_prompt_tokens_total")),
        generated_tokens(Counter(r, "automodeld_generated_tokens_total")),
        queue_seconds(Histogram(r, "automodeld_queue_seconds")),
        time_to_first_token_seconds(Histogram(r, "automodeld_time_to_first_token_seconds")),
        inter_token_seconds(Histogram(r, "automodeld_inter_token_latency_seconds")),
        step_seconds(Histogram(r, "automodeld_step_seconds")),
        step_host_seconds(Histogram(r, "automodeld_step_host_seconds")),
        running(Gauge(r, "automodeld_running")),
        waiting(Gauge(r, "automodeld_waiting")),
        kv_pages_used(Gauge(r, "automodeld_kv_pages_used")),
        kv_pages_total(Gauge(r, "automodeld_kv_pages_total")),
        kv_pages_mapped(Gauge(r, "automodeld_kv_pages_mapped")),
        preemptions(Counter(r, "automodeld_preemptions_total")),
        load_seconds(Gauge(r, "automodeld_model_load_seconds")),
        load_fallbacks(Counter(r, "automodeld_model_load_fallbacks_total")),
        build_info(Gauge(r, "automodeld_build_info")) {}

  prometheus::Family<prometheus::Counter>& requests;
  prometheus::Family<prometheus::Counter>& prompt_tokens;
  prometheus::Family<prometheus::Counter>& generated_tokens;
  prometheus::Family<prometheus::Histogram>& queue_seconds;
  prometheus::Family<prometheus::Histogram>& time_to_first_token_seconds;
  prometheus::Family<prometheus::Histogram>& inter_token_seconds;
  prometheus::Family<prometheus::Histogram>& step_seconds;
  prometheus::Family<prometheus::Histogram>& step_host_seconds;
  prometheus::Family<prometheus::Gauge>& running;
  prometheus::Family<prometheus::Gauge>& waiting;
  prometheus::Family<prometheus::Gauge>& kv_pages_used;
  prometheus::Family<prometheus::Gauge>& kv_pages_total;
  prometheus::Family<prometheus::Gauge>& kv_pages_mapped;
  prometheus::Family<prometheus::Counter>& preemptions;
  prometheus::Family<prometheus::Gauge>& load_seconds;
  prometheus::Family<prometheus::Counter>& load_fallbacks;
  prometheus::Family<prometheus::Gauge>& build_info;
};

Metrics::Metrics()
    : registry_(std::make_shared<prometheus::Registry>()), families_(std::make_unique<Families>(*registry_)) {
  const std::string& version = Version();
  const size_t plus = version.find('+');
  const std::string commit = plus == std::string::npos ? "" : version.substr(plus + 1);
  families_->build_info.Add({{"version", version.substr(0, plus)}, {"commit", commit}}).Set(1);
}

Metrics::~Metrics() = default;

ModelMetrics* Metrics::ForModel(const std::string& model) {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<ModelMetrics>& metrics = models_[model];
  if (metrics != nullptr) return metrics.get();
  Families& f = *families_;
  const prometheus::Labels labels = {{"model", model}};
  metrics = std::make_unique<ModelMetrics>(ModelMetrics{
      f.prompt_tokens.Add(labels), f.generated_tokens.Add(labels), f.queue_seconds.Add(labels, kWaitBuckets),
      f.time_to_first_token_seconds.Add(labels, kWaitBuckets), f.inter_token_seconds.Add(labels, kStepBuckets),
      f.step_seconds.Add(labels, kStepBuckets), f.step_host_seconds.Add(labels, kHostBuckets), f.running.Add(labels),
      f.waiting.Add(labels), f.kv_pages_used.Add(labels), f.kv_pages_total.Add(labels), f.kv_pages_mapped.Add(labels),
      f.preemptions.Add(labels), f.load_seconds.Add(labels)});
  return metrics.get();
}

void Metrics::CountRequest(const std::string& method, const std::string& model, const std::string& code) {
  families_->requests.Add({{"method", method}, {"model", model}, {"code", code}}).Increment();
}

void Metrics::CountFallback(const std::string& model, const std::string& step) {
  families_->load_fallbacks.Add({{"model", model}, {"step", step}}).Increment();
}

std::string Metrics::Serialize() const { return prometheus::TextSerializer().Serialize(registry_->Collect()); }

}  // namespace automodeld
