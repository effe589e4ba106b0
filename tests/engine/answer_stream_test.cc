#include "core/engine/answer_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "tests/engine/collecting_sink.h"
#include "tests/engine/letters_tokenizer.h"
#include "tests/engine/requests.h"

namespace automodeld {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The answer to one request, given events by hand. Time goes on by a second with each.
class AnswerStreamTest : public ::testing::Test {
 protected:
  AnswerStreamTest() {
    request_->sink = sink_;
    request_->arrival = now_;
    first_step_ = now_ += absl::Seconds(1);
  }

  AnswerStream& stream() {
    if (!stream_.has_value()) stream_.emplace(request_, tokenizer_, metrics_.ForModel("m"));
    return *stream_;
  }

  Event NextEvent() {
    now_ += absl::Seconds(1);
    return {.request = request_, .time = now_, .first_step = first_step_, .status = absl::OkStatus()};
  }

  void Token(TokenId token, FinishReason end = FinishReason::kNone) {
    Event event = NextEvent();
    event.output.token = token;
    event.output.logprob = {token, -1.5F, {}};
    event.ended = end != FinishReason::kNone;
    event.reason = end;
    stream().Take(std::move(event));
  }

  void Text(const std::string& letters) {
    for (const char letter : letters) Token(letter - 'a');
  }

  void End(const absl::Status& status) {
    Event event = NextEvent();
    event.ended = true;
    event.status = status;
    stream().Take(std::move(event));
  }

  std::shared_ptr<const Tokenizer> tokenizer_ = LettersTokenizer();
  std::shared_ptr<CollectingSink> sink_ = std::make_shared<CollectingSink>();
  std::shared_ptr<Request> request_ = GenerateRequest("a", 3, 100);
  Metrics metrics_;
  absl::Time now_ = absl::UnixEpoch();
  absl::Time first_step_;
  std::optional<AnswerStream> stream_;
};

TEST_F(AnswerStreamTest, TokensBecomeTextAsTheyCome) {
  Text("hi");
  Token(kSpace);
  Token('x' - 'a', FinishReason::kLength);
  const Answer answer = sink_->answer();
  EXPECT_THAT(answer.deltas, ElementsAre("h", "i", " ", "x"));
  EXPECT_THAT(answer.token_ids, ElementsAre(7, 8, kSpace, 23));
  EXPECT_EQ(answer.reason, FinishReason::kLength);
  EXPECT_EQ(answer.num_finishes, 1);
}

TEST_F(AnswerStreamTest, IncompleteCharacterIsHeldBackButItsTokenIsNot) {
  Token(kFirstByte);
  Token(kSecondByte);
  Token(kFirstByte, FinishReason::kLength);
  const Answer answer = sink_->answer();
  EXPECT_THAT(answer.deltas, ElementsAre("", "é", "\xEF\xBF\xBD"));
  EXPECT_THAT(answer.token_ids, ElementsAre(kFirstByte, kSecondByte, kFirstByte));
}

TEST_F(AnswerStreamTest, StopTokenIsReportedWithoutItsText) {
  Text("ab");
  Token('c' - 'a', FinishReason::kStop);
  EXPECT_EQ(sink_->answer().text, "ab");
  EXPECT_THAT(sink_->answer().token_ids, ElementsAre(0, 1, 2));
  EXPECT_EQ(sink_->answer().reason, FinishReason::kStop);
}

TEST_F(AnswerStreamTest, EndOfSequenceHasNoTextEvenWhereItDoesNotEnd) {
  Token(kEos);
  Text("a");
  EXPECT_EQ(sink_->answer().text, "a");
  EXPECT_THAT(sink_->answer().token_ids, ElementsAre(kEos, 0));
}

TEST_F(AnswerStreamTest, StopStringAcrossTokensIsTrimmedAndItsTokensAreReported) {
  request_->sampling.stop = {"stop"};
  Text("axstop");
  const Answer answer = sink_->answer();
  EXPECT_EQ(answer.text, "ax");
  EXPECT_EQ(answer.token_ids.size(), 6U);
  EXPECT_EQ(answer.reason, FinishReason::kStopSequence);
  EXPECT_EQ(answer.usage.completion_tokens, 6);
  EXPECT_TRUE(stream().finished());
}

TEST_F(AnswerStreamTest, StopStringInTheMiddleOfATokenCutsTheToken) {
  request_->sampling.stop = {"N"};
  Text("a");
  Token(kEnd);
  EXPECT_EQ(sink_->answer().text, "aE");
  EXPECT_EQ(sink_->answer().reason, FinishReason::kStopSequence);
}

TEST_F(AnswerStreamTest, StopStringWinsWhereItComesWithTheLastToken) {
  request_->sampling.stop = {"END"};
  Text("a");
  Token(kEnd, FinishReason::kLength);
  EXPECT_EQ(sink_->answer().text, "a");
  EXPECT_EQ(sink_->answer().reason, FinishReason::kStopSequence);
  EXPECT_EQ(sink_->answer().num_finishes, 1);
}

TEST_F(AnswerStreamTest, HeldBackTextComesWithTheEnd) {
  request_->sampling.stop = {"stop"};
  Text("ast");
  EXPECT_EQ(sink_->answer().text, "a");
  Token(kEos, FinishReason::kStop);
  EXPECT_EQ(sink_->answer().text, "ast");
  EXPECT_EQ(sink_->answer().reason, FinishReason::kStop);
}

TEST_F(AnswerStreamTest, NothingFollowsTheEnd) {
  request_->sampling.stop = {"b"};
  Text("abab");
  End(absl::OkStatus());
  EXPECT_EQ(sink_->answer().text, "a");
  EXPECT_EQ(sink_->answer().token_ids.size(), 2U);
  EXPECT_EQ(sink_->answer().num_finishes, 1);
}

TEST_F(AnswerStreamTest, WithoutATokenizerTokensComeWithoutText) {
  tokenizer_ = nullptr;
  Token(5);
  Token(6, FinishReason::kStop);
  EXPECT_EQ(sink_->answer().text, "");
  EXPECT_THAT(sink_->answer().token_ids, ElementsAre(5, 6));
}

TEST_F(AnswerStreamTest, IdBeyondTheVocabularyStandsForNoText) {
  Text("a");
  Token(kLettersVocabSize);
  Text("b");
  EXPECT_EQ(sink_->answer().text, "ab");
  EXPECT_EQ(sink_->answer().num_finishes, 0);
}

TEST_F(AnswerStreamTest, LogprobsComeOnlyIfAskedFor) {
  Text("ab");
  EXPECT_TRUE(sink_->answer().logprobs.empty());
  stream_.reset();
  request_->sampling.logprobs = 0;
  Text("c");
  ASSERT_EQ(sink_->answer().logprobs.size(), 1U);
  EXPECT_EQ(sink_->answer().logprobs[0].token_id, 2);
}

TEST_F(AnswerStreamTest, EmbeddingComesOnceAndThenTheEnd) {
  request_->kind = Request::Kind::kEmbed;
  Event event = NextEvent();
  event.ended = true;
  event.output.embedding = {1.0F, 2.0F};
  stream().Take(std::move(event));
  EXPECT_THAT(sink_->answer().embedding, ElementsAre(1.0F, 2.0F));
  EXPECT_EQ(sink_->answer().num_finishes, 1);
  EXPECT_EQ(sink_->answer().usage.prompt_tokens, 3);
}

TEST_F(AnswerStreamTest, UsageTellsQueuePrefillAndDecode) {
  Text("abc");
  Token(3, FinishReason::kLength);
  const RequestUsage usage = sink_->answer().usage;
  EXPECT_EQ(usage.prompt_tokens, 3);
  EXPECT_EQ(usage.completion_tokens, 4);
  EXPECT_EQ(usage.queue, absl::Seconds(1));
  EXPECT_EQ(usage.prefill, absl::Seconds(1));
  EXPECT_EQ(usage.decode, absl::Seconds(3));
}

TEST_F(AnswerStreamTest, RequestThatNeverRanHasOnlyQueueTime) {
  first_step_ = absl::InfiniteFuture();
  End(absl::CancelledError("gone"));
  const Answer answer = sink_->answer();
  EXPECT_EQ(answer.status, absl::CancelledError("gone"));
  EXPECT_EQ(answer.usage.queue, absl::Seconds(2));
  EXPECT_EQ(answer.usage.prefill, absl::ZeroDuration());
  EXPECT_EQ(answer.usage.decode, absl::ZeroDuration());
}

TEST_F(AnswerStreamTest, SinkThatThrowsEndsItsRequestWithInternal) {
  sink_->on_tokens = [](int) { throw std::runtime_error("no"); };
  Text("ab");
  EXPECT_EQ(sink_->answer().status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(sink_->answer().num_finishes, 1);
}

TEST_F(AnswerStreamTest, SinkMayThrowWhatIsNoException) {
  sink_->on_tokens = [](int) { throw 7; };
  Text("ab");
  EXPECT_EQ(sink_->answer().status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(sink_->answer().num_finishes, 1);
}

TEST_F(AnswerStreamTest, TokensAndWaitsAreCounted) {
  Text("abc");
  const std::string text = metrics_.Serialize();
  EXPECT_THAT(text, HasSubstr("automodeld_prompt_tokens_total{model=\"m\"} 3"));
  EXPECT_THAT(text, HasSubstr("automodeld_generated_tokens_total{model=\"m\"} 3"));
  EXPECT_THAT(text, HasSubstr("automodeld_queue_seconds_sum{model=\"m\"} 1"));
  EXPECT_THAT(text, HasSubstr("automodeld_time_to_first_token_seconds_sum{model=\"m\"} 2"));
  EXPECT_THAT(text, HasSubstr("automodeld_inter_token_latency_seconds_count{model=\"m\"} 2"));
}

}  // namespace
}  // namespace automodeld
