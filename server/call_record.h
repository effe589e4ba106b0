// The trace that one call leaves: a line in the log and a count in the metrics, when it ends. No client text in either.
//
//   CallRecord record(&metrics, "Generate");
//   record.SetModel("llama");      // once the name is known to be a loaded model's
//   record.AddTokens(17);
//   record.End(status);            // INFO  call id=1f method=Generate model=llama code=OK tokens=17 ms=240.1
//
// One thread at a time, but for id().
#ifndef SERVER_CALL_RECORD_H_
#define SERVER_CALL_RECORD_H_

#include <absl/status/status.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "core/metrics.h"

namespace automodeld {

class CallRecord {
 public:
  // `metrics` must outlive it; `method` is the RPC's name.
  CallRecord(Metrics* metrics, const char* method);

  void SetModel(const std::string& model) { model_ = model; }
  void AddTokens(int64_t tokens) { tokens_ += tokens; }
  void End(absl::StatusCode code);

  const std::string& id() const { return id_; }  // unique in this process

 private:
  Metrics* const metrics_;
  const char* const method_;
  const std::string id_;
  const std::chrono::steady_clock::time_point start_;
  std::string model_;
  int64_t tokens_ = 0;
};

}  // namespace automodeld

#endif  // SERVER_CALL_RECORD_H_
