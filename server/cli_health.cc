#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <fmt/format.h>
#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/generic/generic_stub.h>

#include <chrono>
#include <condition_variable>
#include <future>
#include <mutex>
#include <string>

#include "automodeld/v1/models.grpc.pb.h"  // brings what makes messages of any type travel
#include "server/cli_command.h"

namespace automodeld {
namespace {

// grpc.health.v1's messages, by types of the same form on the wire: one text, one enum, both field 1. That spares a
// copy of a .proto file whose generated code other libraries in the process may bring too.
using HealthRequest = google::protobuf::StringValue;
using HealthResponse = google::protobuf::Int32Value;
using HealthStub = grpc::TemplatedGenericStub<HealthRequest, HealthResponse>;

constexpr int kServing = 1;
constexpr char kCheck[] = "/grpc.health.v1.Health/Check";
constexpr char kWatch[] = "/grpc.health.v1.Health/Watch";

std::string StatusName(int status) {
  constexpr const char* kNames[] = {"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"};
  return status >= 0 && status < 4 ? kNames[status] : fmt::format("{}", status);
}

// Reads a Watch stream until it says SERVING or ends.
class Watch : public grpc::ClientBidiReactor<HealthRequest, HealthResponse> {
 public:
  Watch(HealthStub& stub, grpc::ClientContext* context, const std::string& model) : context_(context) {
    request_.set_value(model);
    stub.PrepareBidiStreamingCall(context, kWatch, {}, this);
    StartWriteLast(&request_, {});
    StartRead(&response_);
    StartCall();
  }

  // OK: it serves.
  grpc::Status Await() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return ended_; });
    return serving_ ? grpc::Status::OK : status_;
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.value() != kServing) return StartRead(&response_);
    serving_ = true;
    context_->TryCancel();
  }

  void OnDone(const grpc::Status& status) override {
    const std::lock_guard lock(mutex_);
    status_ = status;
    ended_ = true;
    done_.notify_one();
  }

  grpc::ClientContext* const context_;
  HealthRequest request_;
  HealthResponse response_;
  bool serving_ = false;  // set before OnDone, read after
  std::mutex mutex_;
  std::condition_variable done_;
  grpc::Status status_;
  bool ended_ = false;
};

class Health {
 public:
  Health(CLI::App& command, CommandLine& line) : terminal_(line.terminal), client_(command, line.program.environment) {
    command.add_option("MODEL", model_, "Name of a model; without it, the daemon as a whole");
    command.add_option("--wait", wait_, "Wait until it serves, at most this long, such as 60s")
        ->type_name("DURATION")
        ->check(CheckDuration)
        ->excludes("--timeout");
  }

  int Run() { return wait_.empty() ? Check() : Wait(); }

 private:
  int Check() {
    HealthStub stub(client_.Connect());
    HealthRequest request;
    request.set_value(model_);
    HealthResponse response;
    const auto context = client_.Context();
    std::promise<grpc::Status> done;
    stub.UnaryCall(context.get(), kCheck, {}, &request, &response,
                   [&](grpc::Status status) { done.set_value(std::move(status)); });
    const grpc::Status status = done.get_future().get();
    if (!status.ok()) return client_.Finish(terminal_, status);
    terminal_.out << StatusName(response.value()) << "\n";
    return response.value() == kServing ? kExitOk : kExitFailed;
  }

  int Wait() {
    absl::Duration wait;
    absl::ParseDuration(wait_, &wait);
    const auto deadline = absl::ToChronoTime(absl::Now() + wait);
    const auto channel = client_.Connect();
    grpc::Status status(grpc::StatusCode::UNAVAILABLE, "");
    while (status.error_code() == grpc::StatusCode::UNAVAILABLE && channel->WaitForConnected(deadline)) {
      status = WatchOnce(channel, deadline);
    }
    if (status.ok()) {
      terminal_.out << StatusName(kServing) << "\n";
      return kExitOk;
    }
    const bool late = std::chrono::system_clock::now() >= deadline;
    if (late) status = {grpc::StatusCode::DEADLINE_EXCEEDED, "not SERVING after " + wait_};
    return client_.Finish(terminal_, status);
  }

  grpc::Status WatchOnce(const std::shared_ptr<grpc::Channel>& channel,
                         std::chrono::system_clock::time_point deadline) {
    HealthStub stub(channel);
    grpc::ClientContext context;
    context.set_deadline(deadline);
    return Watch(stub, &context, model_).Await();
  }

  Terminal& terminal_;
  ClientFlags client_;
  std::string model_;
  std::string wait_;  // empty: not at all
};

}  // namespace

void AddHealth(CommandLine& line) {
  AddCommand<Health>(line, "health", "Says whether the daemon, or one model, serves: exit code 0 or 1");
}

}  // namespace automodeld
