// Texts over 1 MiB: each takes a second and gigabytes, so they are encoded one at a time, and nothing else waits for
// them.
#include <gmock/gmock.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "server/encode_text.h"
#include "tests/service/test_daemon.h"

namespace automodeld {
namespace {

v1::TokenizeRequest TokenizeOf(const std::string& text) {
  v1::TokenizeRequest request;
  request.set_model("decoder");
  request.set_text(text);
  return request;
}

// Tokenize calls that run at once.
class Calls {
 public:
  void Start(TestDaemon& daemon, const v1::TokenizeRequest& request) {
    Call& call = *calls_.emplace_back(std::make_unique<Call>());
    daemon.inference().async()->Tokenize(&call.context, &request, &call.response, [this, &call](grpc::Status status) {
      call.status = std::move(status);
      ++num_ended_;
      num_ended_.notify_all();
    });
  }
  void CancelAll() {
    for (const auto& call : calls_) call->context.TryCancel();
  }
  int num_ended() const { return num_ended_; }
  void AwaitEnded(int count) {
    for (int ended = num_ended_; ended < count; ended = num_ended_) num_ended_.wait(ended);
  }
  void AwaitAll() { AwaitEnded(static_cast<int>(calls_.size())); }
  int num_ok() const {
    return static_cast<int>(std::count_if(calls_.begin(), calls_.end(), [](auto& call) { return call->status.ok(); }));
  }

 private:
  struct Call {
    grpc::ClientContext context;
    v1::TokenizeResponse response;
    grpc::Status status;
  };
  std::vector<std::unique_ptr<Call>> calls_;
  std::atomic<int> num_ended_ = 0;
};

constexpr int kNumLarge = 8;
const std::string kLarge(kLargeText + kLargeText / 2, 'x');

// The first answer means that the others have arrived too, or nearly.
void StartLarge(TestDaemon& daemon, const v1::TokenizeRequest& request, Calls* large) {
  for (int i = 0; i < kNumLarge; ++i) large->Start(daemon, request);
  large->AwaitEnded(1);
}

TEST(LargeTexts, ThatWaitHoldNoWorker) {
  TestDaemon daemon({"decoder"}, [](DaemonConfig& config, FakeLoader&) { config.worker_threads = 2; });
  const v1::TokenizeRequest request = TokenizeOf(kLarge);
  Calls large;
  StartLarge(daemon, request, &large);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(Generate(daemon.inference(), TextRequest("decoder", "abc", 1)).status.ok());
  }
  EXPECT_LT(large.num_ended(), kNumLarge);
  large.AwaitAll();
  EXPECT_EQ(large.num_ok(), kNumLarge);
}

// Of this process, the daemon included.
double ProcessorSeconds() {
  timespec now = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

TEST(LargeTexts, ThatWaitAreDroppedWithTheirCalls) {
  TestDaemon daemon({"decoder"});
  const v1::TokenizeRequest request = TokenizeOf(kLarge);
  Calls first, cancelled, last;
  const double start = ProcessorSeconds();
  first.Start(daemon, request);
  first.AwaitAll();
  const double one = ProcessorSeconds() - start;
  StartLarge(daemon, request, &cancelled);
  const double before = ProcessorSeconds();
  cancelled.CancelAll();
  cancelled.AwaitAll();
  last.Start(daemon, request);
  last.AwaitAll();
  EXPECT_EQ(last.num_ok(), 1);
  EXPECT_LT(cancelled.num_ok(), kNumLarge);
  EXPECT_LT(ProcessorSeconds() - before, 4 * one);  // the last, and the one that was being encoded
}

TEST(LargeTexts, ThatCanNeverFitAreRefusedByEveryCall) {
  TestDaemon daemon({"decoder"});
  const std::string text(3'000'000, 'x');
  const std::string message = "text: 3000000 bytes can never fit max_model_len 4096";
  grpc::ClientContext tokenize, embed;
  v1::TokenizeResponse ids;
  const grpc::Status tokenized = daemon.inference().Tokenize(&tokenize, TokenizeOf(text), &ids);
  EXPECT_EQ(tokenized.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(tokenized.error_message(), message);
  EXPECT_EQ(Generate(daemon.inference(), TextRequest("decoder", text, 1)).status.error_message(), message);
  v1::EmbedRequest request;
  v1::EmbedResponse embedded;
  request.set_model("decoder");
  request.set_truncate(false);
  request.add_inputs()->set_text(text);
  ASSERT_TRUE(daemon.inference().Embed(&embed, request, &embedded).ok());
  EXPECT_EQ(embedded.embeddings(0).error().message(), message);
}

TEST(LargeTexts, AMebibyteIsTokenizedHoweverShortTheModel) {
  TestDaemon daemon({"decoder"}, [](DaemonConfig&, FakeLoader& loader) { loader.limits.max_model_len = 64; });
  grpc::ClientContext context;
  v1::TokenizeResponse response;
  ASSERT_TRUE(daemon.inference().Tokenize(&context, TokenizeOf(std::string(kLargeText, 'x')), &response).ok());
  EXPECT_EQ(response.token_ids_size(), static_cast<int>(kLargeText) + 1);
}

}  // namespace
}  // namespace automodeld
