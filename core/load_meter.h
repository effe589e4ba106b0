// How far a load is, for whoever waits for it: phases, bytes and seconds, and whether to stop.
//
//   LoadMeter meter(context);
//   meter.Begin("weights", total_bytes);
//   RETURN_IF_ERROR(meter.Check());   // CANCELLED
//   meter.Advance(bytes);             // tells context.progress, at most every 50 ms and at every change of phase
//
// Used by the loading thread only. Torch-free.
#ifndef CORE_LOAD_METER_H_
#define CORE_LOAD_METER_H_

#include <absl/status/status.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/auto_model.h"

namespace automodeld {

class LoadMeter {
 public:
  explicit LoadMeter(const LoadContext& context) : context_(context) {}

  void Begin(const std::string& phase, int64_t total_bytes = 0);  // ends the phase before
  void Advance(int64_t bytes);
  absl::Status Check() const;
  // Ends the last phase; every phase with its seconds, in order.
  std::vector<std::pair<std::string, double>> Finish();

 private:
  using Clock = std::chrono::steady_clock;

  void EndPhase();
  void Tell();

  const LoadContext& context_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point phase_start_ = start_;
  Clock::time_point last_told_ = start_;
  LoadProgress progress_;
  std::vector<std::pair<std::string, double>> seconds_;
};

}  // namespace automodeld

#endif  // CORE_LOAD_METER_H_
