#include "server/load_log.h"

#include <spdlog/spdlog.h>

namespace automodeld {
namespace {

void LogFp8(const std::string& model, const Fp8Report& fp8) {
  spdlog::info("model {}: fp8: {} of {} linears converted", model, fp8.converted, fp8.total);
  for (const Fp8Report::Skipped& skipped : fp8.skipped) {
    spdlog::debug("model {}: fp8: {} skipped: {}", model, skipped.fqn, skipped.reason);
  }
}

}  // namespace

void LogLoaded(const LoadReport& report, bool check_only) {
  const ModelInfo& info = report.info;
  double seconds = 0;
  for (const auto& [phase, phase_seconds] : report.phase_seconds) seconds += phase_seconds;
  spdlog::info("{} model={} architecture={} dtype={} device={} attention={} parameters={} bytes={} seconds={:.2f}",
               check_only ? "checked" : "loaded", info.model, info.architecture, info.dtype, info.device,
               report.attention_backend, info.num_parameters, report.weight_bytes, seconds);
  for (const OpPatch& patch : report.patches) {
    spdlog::info("model {}: {} patched: {} -> {}", info.model, patch.op, patch.from, patch.to);
  }
  for (const std::string& op : report.decode_attention_ops) {
    spdlog::info("model {}: {} is done inside attention in decode steps of few sequences", info.model, op);
  }
  for (const LoadAttempt& attempt : report.attempts) {
    spdlog::warn("model {}: {} failed ({}); {} {}", info.model, attempt.what, attempt.error, attempt.fallback,
                 check_only ? "would be used" : "is used");
  }
  for (const std::string& note : report.notes) spdlog::warn("model {}: {}", info.model, note);
  if (report.fp8) LogFp8(info.model, *report.fp8);
}

}  // namespace automodeld
