#include "server/load_log.h"

#include <spdlog/spdlog.h>

namespace automodeld {

void LogLoaded(const LoadReport& report, bool check_only) {
  const ModelInfo& info = report.info;
  double seconds = 0;
  for (const auto& [phase, phase_seconds] : report.phase_seconds) seconds += phase_seconds;
  spdlog::info("{} model={} architecture={} dtype={} device={} attention={} parameters={} bytes={} seconds={:.2f}",
               check_only ? "checked" : "loaded", info.model, info.architecture, info.dtype, info.device,
               report.attention_backend, info.num_parameters, report.weight_bytes, seconds);
  for (const LoadAttempt& attempt : report.attempts) {
    spdlog::warn("model {}: {} failed ({}); {} {}", info.model, attempt.what, attempt.error, attempt.fallback,
                 check_only ? "would be used" : "is used");
  }
}

}  // namespace automodeld
