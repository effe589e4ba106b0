// Generate from a client's side: what is streamed, and how a call ends.
#include <gmock/gmock.h>

#include <thread>

#include "tests/await_that.h"
#include "tests/service/test_daemon.h"

namespace automodeld {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

void ExpectIdle(TestDaemon& daemon, const std::string& model) {
  AwaitThat([&] {
    const v1::ModelLoad load = daemon.Load(model);
    return load.running() == 0 && load.waiting() == 0 && load.kv_pages_used() == 0;
  });
  EXPECT_THAT(daemon.loader().steps(model)->violations(), SizeIs(0));
}

// The same prompt's answer, from arithmetic alone.
std::string Expected(const FakeLoader& loader, const std::string& text, int max_tokens) {
  Request request;
  request.prompt = {256};
  for (const char c : text) request.prompt.push_back(static_cast<unsigned char>(c));
  request.sampling.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  std::string answer;
  for (const TokenId token : FakeRunner::ExpectedTokens(request, loader.limits, loader.next_token)) {
    answer += static_cast<char>(token);
  }
  return answer;
}

TEST(Generate, StreamsEveryTokenInOrderAndEndsWithReasonAndUsage) {
  TestDaemon daemon({"decoder"});
  const Answer answer = Generate(daemon.inference(), TextRequest("decoder", "abc", 20));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text.at(0), Expected(daemon.loader(), "abc", 20));
  EXPECT_THAT(answer.token_ids.at(0), SizeIs(20));
  EXPECT_EQ(answer.finish_reason.at(0), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(answer.usage.prompt_tokens(), 4);
  EXPECT_EQ(answer.usage.completion_tokens(), 20);
  ExpectIdle(daemon, "decoder");
}

TEST(Generate, TheFirstTokenArrivesBeforeTheSecondIsMade) {
  TestDaemon daemon({"decoder"});
  const auto steps = daemon.loader().steps("decoder");
  steps->Hold();
  grpc::ClientContext context;
  const auto reader = daemon.inference().Generate(&context, TextRequest("decoder", "abc", 3));
  steps->AwaitLaunched(1);
  steps->ReleaseSteps(1);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.token_ids_size(), 1);
  steps->Release();
  EXPECT_THAT(ReadAll(reader.get()).token_ids.at(0), SizeIs(2));
}

TEST(Generate, WithoutMaxTokensGoesOnToTheModelsLength) {
  TestDaemon daemon({"decoder"}, [](DaemonConfig&, FakeLoader& loader) { loader.limits.max_model_len = 40; });
  v1::GenerateRequest request = TextRequest("decoder", "abc", 1);
  request.mutable_sampling()->clear_max_tokens();
  const Answer answer = Generate(daemon.inference(), request);
  EXPECT_EQ(answer.usage.prompt_tokens() + answer.usage.completion_tokens(), 40);
  EXPECT_EQ(answer.finish_reason.at(0), v1::FINISH_REASON_LENGTH);
}

TEST(Generate, CompletionsOfOnePromptHaveTheirOwnIndexAndSeed) {
  TestDaemon daemon({"decoder"});
  v1::GenerateRequest request = TextRequest("decoder", "abc", 12);
  request.mutable_sampling()->set_n(3);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(7);
  const Answer answer = Generate(daemon.inference(), request);
  ASSERT_TRUE(answer.status.ok());
  ASSERT_THAT(answer.text, SizeIs(3));
  EXPECT_NE(answer.text.at(0), answer.text.at(1));
  EXPECT_EQ(answer.usage.prompt_tokens(), 4);
  EXPECT_EQ(answer.usage.completion_tokens(), 36);
  request.mutable_sampling()->clear_n();
  request.mutable_sampling()->set_seed(8);
  EXPECT_EQ(Generate(daemon.inference(), request).text.at(0), answer.text.at(1));
}

TEST(Generate, EndsAtTheCheckpointsEndOfSequenceUnlessToldToIgnoreIt) {
  TestDaemon daemon({"decoder"}, [](DaemonConfig&, FakeLoader& loader) {
    loader.next_token = ScriptedTokens({'a', 'b', 257, 'c'});
  });
  v1::GenerateRequest request = TextRequest("decoder", "abc", 6);
  Answer answer = Generate(daemon.inference(), request);
  EXPECT_EQ(answer.finish_reason.at(0), v1::FINISH_REASON_STOP);
  EXPECT_EQ(answer.text.at(0), "ab");
  request.mutable_sampling()->set_ignore_eos(true);
  answer = Generate(daemon.inference(), request);
  EXPECT_EQ(answer.finish_reason.at(0), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(answer.usage.completion_tokens(), 6);
}

TEST(Generate, StopStringEndsTheTextBeforeIt) {
  TestDaemon daemon({"decoder"}, [](DaemonConfig&, FakeLoader& loader) {
    loader.next_token = ScriptedTokens({'o', 'n', 'e', 'E', 'N', 'D', 'x'});
  });
  v1::GenerateRequest request = TextRequest("decoder", "abc", 100);
  request.mutable_sampling()->add_stop("END");
  const Answer answer = Generate(daemon.inference(), request);
  EXPECT_EQ(answer.text.at(0), "one");
  EXPECT_EQ(answer.finish_reason.at(0), v1::FINISH_REASON_STOP_SEQUENCE);
  ExpectIdle(daemon, "decoder");
}

TEST(Generate, LogprobsComeOnePerToken) {
  TestDaemon daemon({"decoder"});
  v1::GenerateRequest request = TextRequest("decoder", "abc", 5);
  request.mutable_sampling()->set_logprobs(2);
  const Answer answer = Generate(daemon.inference(), request);
  ASSERT_THAT(answer.logprobs, SizeIs(5));
  EXPECT_EQ(answer.logprobs[3].token_id(), answer.token_ids.at(0)[3]);
  EXPECT_EQ(answer.logprobs[3].top_size(), 2);
}

TEST(Generate, ChatIsRenderedByTheTemplateWithoutSpecialTokensAround) {
  TestDaemon daemon({"decoder"});
  v1::GenerateRequest request = TextRequest("decoder", "", 2);
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->add_content()->set_text("one");
  message->add_content()->set_text("two");
  const std::string rendered = "user: one\ntwo\nassistant: ";
  const Answer answer = Generate(daemon.inference(), request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.usage.prompt_tokens(), static_cast<int>(rendered.size()));
}

TEST(Generate, TokenIdsAreTakenAsTheyAreByAModelWithoutTokenizer) {
  TestDaemon daemon({"idsonly"});
  v1::GenerateRequest request = TextRequest("idsonly", "", 3);
  request.mutable_token_ids()->add_ids(5);
  const Answer answer = Generate(daemon.inference(), request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.usage.prompt_tokens(), 1);
  EXPECT_THAT(answer.token_ids.at(0), SizeIs(3));
  EXPECT_EQ(answer.text.at(0), "");
}

TEST(Generate, SixtyFourConcurrentStreamsEachGetTheirOwnAnswer) {
  TestDaemon daemon({"decoder"});
  std::vector<std::thread> clients;
  std::vector<Answer> answers(64);
  for (size_t i = 0; i < answers.size(); ++i) {
    clients.emplace_back([&, i] {
      answers[i] = Generate(daemon.inference(), TextRequest("decoder", "prompt " + std::to_string(i), 50));
    });
  }
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < answers.size(); ++i) {
    ASSERT_TRUE(answers[i].status.ok()) << answers[i].status.error_message();
    EXPECT_EQ(answers[i].text.at(0), Expected(daemon.loader(), "prompt " + std::to_string(i), 50));
  }
  ExpectIdle(daemon, "decoder");
}

TEST(Generate, TokensMadeWhileTheClientDoesNotReadAreJoinedIntoFewMessages) {
  TestDaemon daemon({"decoder"});
  grpc::ClientContext context;
  const auto reader = daemon.inference().Generate(&context, TextRequest("decoder", "abc", 4000));
  AwaitThat(
      [&] { return daemon.Load("decoder").running() == 0 && daemon.loader().steps("decoder")->num_launched() > 0; });
  const Answer answer = ReadAll(reader.get());
  EXPECT_TRUE(answer.status.ok());
  EXPECT_EQ(answer.text.at(0), Expected(daemon.loader(), "abc", 4000));
}

// One slot: the first request has it, the second waits.
class OneSlot : public testing::Test {
 protected:
  OneSlot()
      : daemon_({"decoder"}, [](DaemonConfig& config, FakeLoader& loader) {
          loader.limits.max_num_seqs = 1;
          loader.limits.max_num_batched_tokens = 16;
          config.max_queue_size = 2;
        }) {}

  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> Start(grpc::ClientContext* context, int max_tokens = 8,
                                                                  const std::string& text = "abc") {
    return daemon_.inference().Generate(context, TextRequest("decoder", text, max_tokens));
  }

  TestDaemon daemon_;
  const std::shared_ptr<FakeSteps> steps_ = daemon_.loader().steps("decoder");
};

TEST_F(OneSlot, CancelInTheQueueEndsOnlyThatCall) {
  steps_->Hold();
  grpc::ClientContext first, second;
  const auto running = Start(&first);
  steps_->AwaitLaunched(1);
  const auto waiting = Start(&second);
  AwaitThat([&] { return daemon_.Load("decoder").waiting() == 1; });
  second.TryCancel();
  EXPECT_EQ(ReadAll(waiting.get()).status.error_code(), grpc::CANCELLED);
  steps_->Release();
  EXPECT_EQ(ReadAll(running.get()).text.at(0), Expected(daemon_.loader(), "abc", 8));
  ExpectIdle(daemon_, "decoder");
}

TEST_F(OneSlot, DeadlineInTheQueueEndsOnlyThatCall) {
  steps_->Hold();
  grpc::ClientContext first, second;
  const auto running = Start(&first);
  steps_->AwaitLaunched(1);
  second.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  EXPECT_EQ(ReadAll(Start(&second).get()).status.error_code(), grpc::DEADLINE_EXCEEDED);
  steps_->Release();
  EXPECT_TRUE(ReadAll(running.get()).status.ok());
  ExpectIdle(daemon_, "decoder");
}

TEST_F(OneSlot, CancelInPrefillFreesThePages) {
  steps_->Hold();
  grpc::ClientContext context;
  const auto reader = Start(&context, 8, std::string(100, 'x'));  // 101 tokens: 7 steps of prefill
  steps_->AwaitLaunched(1);
  steps_->ReleaseSteps(1);
  steps_->AwaitLaunched(2);
  context.TryCancel();
  EXPECT_EQ(ReadAll(reader.get()).status.error_code(), grpc::CANCELLED);
  steps_->Release();
  ExpectIdle(daemon_, "decoder");
}

TEST_F(OneSlot, DeadlineInPrefillFreesThePages) {
  steps_->Hold();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  const auto reader = Start(&context, 8, std::string(100, 'x'));
  steps_->AwaitLaunched(1);
  EXPECT_EQ(ReadAll(reader.get()).status.error_code(), grpc::DEADLINE_EXCEEDED);
  steps_->Release();
  ExpectIdle(daemon_, "decoder");
  EXPECT_LT(steps_->num_launched(), 7 + 8);
}

TEST_F(OneSlot, CancelWhileDecodingFreesThePages) {
  grpc::ClientContext context;
  const auto reader = Start(&context, 4000);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  steps_->Hold();
  context.TryCancel();
  EXPECT_EQ(ReadAll(reader.get()).status.error_code(), grpc::CANCELLED);
  steps_->Release();
  ExpectIdle(daemon_, "decoder");
}

TEST_F(OneSlot, DeadlineWhileDecodingFreesThePages) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  const auto reader = Start(&context, 4000);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  steps_->Hold();
  EXPECT_EQ(ReadAll(reader.get()).status.error_code(), grpc::DEADLINE_EXCEEDED);
  steps_->Release();
  ExpectIdle(daemon_, "decoder");
}

TEST_F(OneSlot, AFullQueueIsRefusedWithItsLimit) {
  steps_->Hold();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 3; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(Start(contexts.back().get()));
    if (i == 0) steps_->AwaitLaunched(1);
    AwaitThat([&] { return daemon_.Load("decoder").waiting() == i; });
  }
  const Answer refused = Generate(daemon_.inference(), TextRequest("decoder", "abc", 1));
  EXPECT_EQ(refused.status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("queue is full: 2 requests waiting (--max-queue-size 2)"));
  steps_->Release();
  for (const auto& reader : readers) EXPECT_TRUE(ReadAll(reader.get()).status.ok());
}

TEST(Generate, AStepThatFailsEndsItsCallsAndTheNextOnesAreServed) {
  TestDaemon daemon({"decoder"}, [](DaemonConfig&, FakeLoader& loader) { loader.fail_wait_at = 2; });
  const Answer failed = Generate(daemon.inference(), TextRequest("decoder", "abc", 8));
  EXPECT_EQ(failed.status.error_code(), grpc::INTERNAL);
  EXPECT_LT(failed.token_ids.at(0).size(), 8U);
  EXPECT_TRUE(Generate(daemon.inference(), TextRequest("decoder", "abc", 8)).status.ok());
  ExpectIdle(daemon, "decoder");
}

TEST(Tokenize, AddsSpecialTokensUnlessToldNotTo) {
  TestDaemon daemon({"decoder"});
  v1::TokenizeRequest request;
  request.set_model("decoder");
  request.set_text("ab");
  v1::TokenizeResponse response;
  grpc::ClientContext with, without;
  ASSERT_TRUE(daemon.inference().Tokenize(&with, request, &response).ok());
  EXPECT_THAT(response.token_ids(), ElementsAre(256, 'a', 'b'));
  request.set_add_special_tokens(false);
  ASSERT_TRUE(daemon.inference().Tokenize(&without, request, &response).ok());
  EXPECT_THAT(response.token_ids(), ElementsAre('a', 'b'));
}

grpc::Status Detokenize(TestDaemon& daemon, const std::vector<int>& ids, bool skip, std::string* text) {
  v1::DetokenizeRequest request;
  request.set_model("decoder");
  request.mutable_token_ids()->Add(ids.begin(), ids.end());
  request.set_skip_special_tokens(skip);
  v1::DetokenizeResponse response;
  grpc::ClientContext context;
  const grpc::Status status = daemon.inference().Detokenize(&context, request, &response);
  *text = response.text();
  return status;
}

TEST(Detokenize, SkipsSpecialTokensIfToldTo) {
  TestDaemon daemon({"decoder"});
  std::string text;
  EXPECT_TRUE(Detokenize(daemon, {256, 'a', 'b'}, false, &text).ok());
  EXPECT_EQ(text, "<s>ab");
  EXPECT_TRUE(Detokenize(daemon, {256, 'a', 'b'}, true, &text).ok());
  EXPECT_EQ(text, "ab");
}

TEST(Detokenize, RefusesIdsOutsideTheVocabulary) {
  TestDaemon daemon({"decoder"});
  std::string text;
  const grpc::Status status = Detokenize(daemon, {'a', 258}, false, &text);
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "token_ids[1]: 258 is outside 0..257");
  const std::vector<int> too_many(1'048'577, 'a');
  EXPECT_EQ(Detokenize(daemon, too_many, false, &text).error_message(),
            "token_ids: 1048577 tokens is outside 0..1048576");
}

TEST(Tokenize, RefusesWhatGenerateWouldRefuse) {
  TestDaemon daemon({"decoder", "idsonly"});
  v1::TokenizeRequest request;
  v1::TokenizeResponse response;
  request.set_text(std::string((8 << 20) + 1, 'x'));
  request.set_model("decoder");
  grpc::ClientContext long_text, no_tokenizer, no_model;
  EXPECT_EQ(daemon.inference().Tokenize(&long_text, request, &response).error_code(), grpc::INVALID_ARGUMENT);
  request.set_text("x");
  request.set_model("idsonly");
  EXPECT_EQ(daemon.inference().Tokenize(&no_tokenizer, request, &response).error_code(), grpc::FAILED_PRECONDITION);
  request.clear_model();
  EXPECT_EQ(daemon.inference().Tokenize(&no_model, request, &response).error_message(), "model: must be given");
}

}  // namespace
}  // namespace automodeld
