#include "core/load_meter.h"

#include <algorithm>

namespace automodeld {

namespace {

constexpr std::chrono::milliseconds kBetweenTelling(50);

double Seconds(std::chrono::steady_clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

void LoadMeter::Begin(const std::string& phase, int64_t total_bytes) {
  EndPhase();
  progress_.phase = phase;
  progress_.done_bytes = 0;
  progress_.total_bytes = total_bytes;
  Tell();
}

void LoadMeter::Advance(int64_t bytes) {
  progress_.done_bytes = std::min(progress_.done_bytes + bytes, progress_.total_bytes);
  if (Clock::now() - last_told_ >= kBetweenTelling) Tell();
}

absl::Status LoadMeter::Check() const {
  const bool cancelled = context_.cancelled != nullptr && context_.cancelled->load(std::memory_order_relaxed);
  return cancelled ? absl::CancelledError("the load was cancelled") : absl::OkStatus();
}

std::vector<std::pair<std::string, double>> LoadMeter::Finish() {
  EndPhase();
  return seconds_;
}

void LoadMeter::EndPhase() {
  const Clock::time_point now = Clock::now();
  if (!progress_.phase.empty()) seconds_.emplace_back(progress_.phase, Seconds(now - phase_start_));
  phase_start_ = now;
}

void LoadMeter::Tell() {
  last_told_ = Clock::now();
  progress_.seconds = Seconds(last_told_ - start_);
  if (context_.progress) context_.progress(progress_);
}

}  // namespace automodeld
