// A call that is answered by a stream. One write is in flight; what comes meanwhile waits, and the call itself decides
// how it is joined, so that a slow client costs memory once and not per message.
#ifndef SERVER_STREAM_CALL_H_
#define SERVER_STREAM_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "server/call.h"
#include "server/convert.h"
#include "server/wire.h"

namespace automodeld {

template <typename Response>
class StreamCall : public grpc::ServerWriteReactor<grpc::ByteBuffer>, protected Call {
 protected:
  using Call::Call;

  // Sends, or lets it wait. Nothing is sent to a client that is gone. Any thread.
  void Send(Response message) {
    std::lock_guard lock(mutex_);
    if (gone_) return;
    Enqueue(std::move(message), &waiting_);
    WriteNext();
  }

  // After all that was sent, ends the call; with OK, `last` goes out before. Exactly once. Any thread.
  void End(absl::Status status, std::optional<Response> last = std::nullopt) {
    std::lock_guard lock(mutex_);
    if (!end_) end_ = std::move(status);
    last_ = std::move(last);
    WriteNext();
  }

  // Adds `message` to what waits.
  virtual void Enqueue(Response message, std::deque<Response>* waiting) = 0;

  // The client is gone: stop working for it. May come more than once and at any time.
  virtual void Abandon() = 0;

 private:
  void OnWriteDone(bool ok) final {
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
      if (!ok) Forget();
      WriteNext();
    }
    if (!ok) Abandon();
  }

  void OnCancel() final {
    SetCancelled();
    {
      std::lock_guard lock(mutex_);
      Forget();
    }
    Abandon();
  }

  void OnDone() final {
    std::unique_lock lock(mutex_);
    const absl::StatusCode code = end_->code();
    lock.unlock();
    Close(code);
  }

  void Forget() {
    gone_ = true;
    waiting_.clear();
  }

  void WriteNext() {
    if (writing_ || (waiting_.empty() && !end_)) return;
    writing_ = true;
    if (!waiting_.empty()) {
      if (!Pack(waiting_.front())) return;
      waiting_.pop_front();
      StartWrite(&current_);
    } else if (last_ && end_->ok() && !gone_) {
      if (Pack(*last_)) StartWriteAndFinish(&current_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      Finish(ToGrpc(*end_));
    }
  }

  // False if it cannot be sent; then the call has ended with the reason.
  bool Pack(const Response& message) {
    absl::Status status = Serialize(message, &current_);
    if (status.ok()) return true;
    Forget();
    end_ = std::move(status);
    Finish(ToGrpc(*end_));
    return false;
  }

  std::mutex mutex_;
  std::deque<Response> waiting_;
  grpc::ByteBuffer current_;  // the message being written
  bool writing_ = false;      // stays true once the end is written
  bool gone_ = false;
  std::optional<absl::Status> end_;
  std::optional<Response> last_;
};

}  // namespace automodeld

#endif  // SERVER_STREAM_CALL_H_
