#include "server/call_record.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <atomic>

namespace automodeld {
namespace {

std::string NextId() {
  static std::atomic<uint64_t> next = 1;
  return fmt::format("{:x}", next.fetch_add(1));
}

}  // namespace

CallRecord::CallRecord(Metrics* metrics, const char* method)
    : metrics_(metrics), method_(method), id_(NextId()), start_(std::chrono::steady_clock::now()) {}

void CallRecord::End(absl::StatusCode code) {
  const std::string name = absl::StatusCodeToString(code);
  const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start_;
  metrics_->CountRequest(method_, model_, name);
  spdlog::info("call id={} method={} model={} code={} tokens={} ms={:.1f}", id_, method_, model_.empty() ? "-" : model_,
               name, tokens_, elapsed.count());
}

}  // namespace automodeld
