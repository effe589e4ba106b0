// One LoadModel call: loads on a loader thread, streams where it is, and ends with the report. Of several progress
// messages that wait for a slow client only the latest is sent.
//
//   return LoadCall::Start(services, context, request, options, &loads);   // in ModelService::LoadModel
#ifndef SERVER_LOAD_CALL_H_
#define SERVER_LOAD_CALL_H_

#include <deque>
#include <filesystem>
#include <memory>
#include <mutex>
#include <set>

#include "automodeld/v1/models.pb.h"
#include "server/stream_call.h"

namespace automodeld {

struct ModelServiceOptions {
  std::filesystem::path model_root;  // `path` is resolved beneath it; empty: no path is taken
  bool read_only = false;            // LoadModel and UnloadModel answer PERMISSION_DENIED and name --admin-listen
};

// PERMISSION_DENIED if read_only.
absl::Status CheckMayChange(const ModelServiceOptions& options, std::string_view method);

class LoadCall;

// The loads in progress, so that a drain can stop them. Any thread. Outlives every call.
class LoadsInProgress {
 public:
  void Add(LoadCall* load);  // stops it at once after StopAll
  void Remove(LoadCall* load);
  void StopAll();

 private:
  std::mutex mutex_;
  std::set<LoadCall*> loads_;
  bool stopped_ = false;
};

class LoadCall final : public StreamCall<v1::LoadModelResponse> {
 public:
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(const Services& services,
                                                           grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request,
                                                           const ModelServiceOptions& options, LoadsInProgress* loads);

  // The load ends with CANCELLED as soon as it looks.
  void Stop() { stopped_.store(true); }

 private:
  LoadCall(const Services& services, grpc::CallbackServerContext* context, ModelServiceOptions options,
           LoadsInProgress* loads);

  absl::Status Admit(const std::shared_ptr<LoadCall>& self, const grpc::ByteBuffer& bytes);
  void Run(const LoadOptions& options);
  absl::StatusOr<LoadReport> Load(const LoadOptions& options);
  absl::Status Explain(const absl::Status& status) const;

  void Enqueue(v1::LoadModelResponse message, std::deque<v1::LoadModelResponse>* waiting) override;
  void Abandon() override { Stop(); }

  const ModelServiceOptions options_;
  LoadsInProgress* const loads_;
  std::atomic<bool> stopped_ = false;
};

}  // namespace automodeld

#endif  // SERVER_LOAD_CALL_H_
