// Every field of GenerateRequest with values outside its range.
#include <gmock/gmock.h>

#include <limits>

#include "tests/service/generate_row.h"

namespace automodeld {
namespace {

using testing::HasSubstr;

constexpr size_t kTenMegabytes = 10'000'000;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr auto kInvalid = grpc::INVALID_ARGUMENT;

// One daemon for all rows: a refusal must leave nothing behind.
TestDaemon& Daemons() {
  static TestDaemon daemon({"decoder", "idsonly", "encoder"});
  return daemon;
}

class GenerateRefuses : public testing::TestWithParam<GenerateRow> {};

TEST_P(GenerateRefuses, NamingFieldValueAndRange) {
  v1::GenerateRequest request = TextRequest("decoder", "abc", 4);
  GetParam().change(request);
  const Answer answer = Generate(Daemons().inference(), request);
  EXPECT_EQ(answer.status.error_code(), GetParam().code) << answer.status.error_message();
  EXPECT_THAT(answer.status.error_message(), HasSubstr(GetParam().message));
  EXPECT_EQ(answer.num_messages, 0);
}

const GenerateRow kRefused[] = {
    {"max_tokens", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_max_tokens(0); }, kInvalid,
     "max_tokens: 0 is outside 1..1048576"},
    {"max_tokens", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_max_tokens(-1); }, kInvalid,
     "max_tokens: -1 is outside"},
    {"max_tokens", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_max_tokens(1048577); }, kInvalid,
     "max_tokens: 1048577 is outside"},
    {"min_tokens", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_min_tokens(-1); }, kInvalid,
     "min_tokens: -1 is outside 0..4"},
    {"min_tokens", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_min_tokens(5); }, kInvalid,
     "min_tokens: 5 is outside 0..4"},
    {"temperature", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_temperature(-0.1F); }, kInvalid,
     "temperature: -0.1 is outside 0..100"},
    {"temperature", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_temperature(100.5F); }, kInvalid,
     "temperature: 100.5 is outside"},
    {"temperature", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_temperature(kNaN); }, kInvalid,
     "temperature: nan is outside"},
    {"temperature", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_temperature(kInfinity); }, kInvalid,
     "temperature: inf is outside"},
    {"top_p", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_top_p(0); }, kInvalid,
     "top_p: 0 is outside 0..1 (above 0)"},
    {"top_p", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_top_p(1.01F); }, kInvalid,
     "top_p: 1.01 is outside"},
    {"top_p", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_top_p(kNaN); }, kInvalid, "top_p: nan is outside"},
    {"top_k", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_top_k(-1); }, kInvalid,
     "top_k: -1 is outside 0..258"},
    {"top_k", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_top_k(259); }, kInvalid, "top_k: 259 is outside"},
    {"min_p", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_min_p(-0.1F); }, kInvalid,
     "min_p: -0.1 is outside 0..1"},
    {"min_p", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_min_p(1.1F); }, kInvalid, "min_p: 1.1 is outside"},
    {"min_p", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_min_p(kNaN); }, kInvalid, "min_p: nan is outside"},
    {"repetition_penalty", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_repetition_penalty(0); }, kInvalid,
     "repetition_penalty: 0 is"},
    {"repetition_penalty", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_repetition_penalty(101); }, kInvalid,
     "outside 0..100 (above 0)"},
    {"repetition_penalty", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_repetition_penalty(kNaN); }, kInvalid,
     "repetition_penalty: nan"},
    {"presence_penalty", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_presence_penalty(2.1F); }, kInvalid,
     "presence_penalty: 2.1 is outside"},
    {"presence_penalty", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_presence_penalty(kNaN); }, kInvalid,
     "is outside -2..2"},
    {"frequency_penalty", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_frequency_penalty(-2.1F); }, kInvalid,
     "frequency_penalty: -2.1 is"},
    {"frequency_penalty", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_frequency_penalty(kNaN); }, kInvalid,
     "frequency_penalty: nan"},
    {"logit_bias",
     [](v1::GenerateRequest& r) {
       r.mutable_sampling()->mutable_logit_bias()->insert({258, 1.0F});
     },
     kInvalid, "logit_bias: 258 is outside 0..257"},
    {"logit_bias",
     [](v1::GenerateRequest& r) {
       r.mutable_sampling()->mutable_logit_bias()->insert({-1, 1.0F});
     },
     kInvalid, "logit_bias: -1 is"},
    {"logit_bias",
     [](v1::GenerateRequest& r) {
       r.mutable_sampling()->mutable_logit_bias()->insert({7, 100.5F});
     },
     kInvalid, "logit_bias[7]: 100.5 is outside -100..100"},
    {"logit_bias",
     [](v1::GenerateRequest& r) {
       r.mutable_sampling()->mutable_logit_bias()->insert({7, kNaN});
     },
     kInvalid, "logit_bias[7]: nan"},
    {"logit_bias",
     [](v1::GenerateRequest& r) {
       for (int i = 0; i < 1025; ++i) r.mutable_sampling()->mutable_logit_bias()->insert({i, 0.0F});
     },
     kInvalid, "logit_bias: 1025 entries is outside 0..1024"},
    {"stop", [](v1::GenerateRequest& r) { r.mutable_sampling()->add_stop(""); }, kInvalid,
     "stop[0]: 0 bytes is outside 1..256"},
    {"stop", [](v1::GenerateRequest& r) { r.mutable_sampling()->add_stop(std::string(257, 'x')); }, kInvalid,
     "stop[0]: 257 bytes is outside"},
    {"stop",
     [](v1::GenerateRequest& r) {
       for (int i = 0; i < 17; ++i) r.mutable_sampling()->add_stop("x");
     },
     kInvalid, "stop: 17 strings is outside 0..16"},
    {"stop_token_ids", [](v1::GenerateRequest& r) { r.mutable_sampling()->add_stop_token_ids(258); }, kInvalid,
     "stop_token_ids[0]: 258 is outside 0..257"},
    {"stop_token_ids", [](v1::GenerateRequest& r) { r.mutable_sampling()->add_stop_token_ids(-1); }, kInvalid,
     "stop_token_ids[0]: -1 is outside"},
    {"stop_token_ids",
     [](v1::GenerateRequest& r) {
       for (int i = 0; i < 65; ++i) r.mutable_sampling()->add_stop_token_ids(1);
     },
     kInvalid, "stop_token_ids: 65 tokens is outside 0..64"},
    {"logprobs", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_logprobs(-1); }, kInvalid,
     "logprobs: -1 is outside 0..20"},
    {"logprobs", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_logprobs(21); }, kInvalid,
     "logprobs: 21 is outside 0..20"},
    {"n", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_n(0); }, kInvalid, "n: 0 is outside 1..16"},
    {"n", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_n(17); }, kInvalid, "n: 17 is outside 1..16"},
    {"priority", [](v1::GenerateRequest& r) { r.set_priority(101); }, kInvalid, "priority: 101 is outside -100..100"},
    {"priority", [](v1::GenerateRequest& r) { r.set_priority(-101); }, kInvalid, "priority: -101 is outside"},
    {"prompt", [](v1::GenerateRequest& r) { r.clear_prompt(); }, kInvalid,
     "prompt: one of text, token_ids and chat must be given"},
    {"text", [](v1::GenerateRequest& r) { r.set_text(""); }, kInvalid, "text: 0 bytes is outside 1..8388608"},
    {"text", [](v1::GenerateRequest& r) { r.set_text(std::string(kTenMegabytes, 'x')); }, kInvalid,
     "text: 10000000 bytes is outside"},
    {"text", [](v1::GenerateRequest& r) { r.set_text(std::string(kFakeModelLen, 'x')); }, grpc::RESOURCE_EXHAUSTED,
     "prompt: 4097 tokens can never fit max_model_len 4096"},
    {"text", [](v1::GenerateRequest& r) { r.set_text(std::string(3'000'000, 'x')); }, grpc::RESOURCE_EXHAUSTED,
     "text: 3000000 bytes can never fit max_model_len 4096"},
    {"token_ids", [](v1::GenerateRequest& r) { r.mutable_token_ids(); }, kInvalid,
     "token_ids: 0 tokens is outside 1..1048576"},
    {"token_ids", [](v1::GenerateRequest& r) { r.mutable_token_ids()->add_ids(258); }, kInvalid,
     "token_ids[0]: 258 is outside 0..257"},
    {"token_ids", [](v1::GenerateRequest& r) { r.mutable_token_ids()->add_ids(-1); }, kInvalid,
     "token_ids[0]: -1 is outside"},
    {"token_ids",
     [](v1::GenerateRequest& r) {
       for (int i = 0; i <= 1'048'576; ++i) r.mutable_token_ids()->add_ids(1);
     },
     kInvalid, "token_ids: 1048577 tokens is outside"},
    {"chat", [](v1::GenerateRequest& r) { r.mutable_chat(); }, kInvalid,
     "chat.messages: 0 messages is outside 1..4096"},
    {"chat", [](v1::GenerateRequest& r) { r.mutable_chat()->add_messages(); }, kInvalid,
     "chat.messages[0].role: 0 bytes is"},
    {"chat",
     [](v1::GenerateRequest& r) {
       for (int i = 0; i <= 4096; ++i) r.mutable_chat()->add_messages()->set_role("user");
     },
     kInvalid, "chat.messages: 4097 messages is outside 1..4096"},
    {"chat", [](v1::GenerateRequest& r) { r.mutable_chat()->add_messages()->set_role(std::string(65, 'r')); }, kInvalid,
     "chat.messages[0].role: 65 bytes is outside 1..64"},
    {"chat",
     [](v1::GenerateRequest& r) {
       r.mutable_chat()->add_messages()->set_role("user");
       for (int i = 0; i <= 128; ++i) r.mutable_chat()->add_tools("{}");
     },
     kInvalid, "chat.tools: 129 tools is outside 0..128"},
    {"chat",
     [](v1::GenerateRequest& r) {
       r.mutable_chat()->add_messages()->set_role("assistant");
       for (int i = 0; i <= 128; ++i) r.mutable_chat()->mutable_messages(0)->add_tool_calls()->set_name("f");
     },
     kInvalid, "chat.messages[0].tool_calls: 129 calls is outside 0..128"},
    {"chat",
     [](v1::GenerateRequest& r) {
       r.mutable_chat()->add_messages()->set_role("assistant");
       r.mutable_chat()->mutable_messages(0)->add_tool_calls();
     },
     kInvalid, "chat.messages[0].tool_calls[0].name: must be given"},
    {"chat",
     [](v1::GenerateRequest& r) {
       auto* message = r.mutable_chat()->add_messages();
       message->set_role("user");
       message->add_content()->mutable_image()->set_data("x");
     },
     grpc::UNIMPLEMENTED, "chat.messages[0].content[0].image"},
    {"chat",
     [](v1::GenerateRequest& r) {
       auto* message = r.mutable_chat()->add_messages();
       message->set_role("user");
       message->add_content();
     },
     kInvalid, "chat.messages[0].content[0].text: must be given"},
    {"chat",
     [](v1::GenerateRequest& r) {
       r.mutable_chat()->add_messages()->set_role("user");
       r.mutable_chat()->add_tools("[1]");
     },
     kInvalid, "chat.tools[0]: not a JSON object"},
    {"chat",
     [](v1::GenerateRequest& r) {
       r.mutable_chat()->add_messages()->set_role("user");
       r.mutable_chat()->add_tools(R"({"a": 1}, {"b": 2})");
     },
     kInvalid, "chat.tools[0]: not a JSON object"},
    {"chat",
     [](v1::GenerateRequest& r) {
       r.mutable_chat()->add_messages()->set_role("user");
       r.mutable_chat()->add_tools(R"({"a": 1})");
     },
     kInvalid, "chat.tools: the model's chat template takes none"},
    {"chat",
     [](v1::GenerateRequest& r) {
       auto* message = r.mutable_chat()->add_messages();
       message->set_role("assistant");
       message->add_tool_calls()->set_name("f");
       message->mutable_tool_calls(0)->set_arguments("{");
     },
     kInvalid, "chat.messages[0].tool_calls[0].arguments: not a JSON object"},
    {"chat",
     [](v1::GenerateRequest& r) {
       auto* message = r.mutable_chat()->add_messages();
       message->set_role("user");
       message->add_content()->set_text(std::string(9 << 20, 'x'));
     },
     kInvalid, "chat: "},
    {"model", [](v1::GenerateRequest& r) { r.clear_model(); }, kInvalid, "model: must be given"},
    {"model", [](v1::GenerateRequest& r) { r.set_model("llama"); }, grpc::NOT_FOUND,
     "model \"llama\" is not loaded; loaded: decoder, encoder, idsonly"},
    {"model", [](v1::GenerateRequest& r) { r.set_model("encoder"); }, grpc::FAILED_PRECONDITION, "does not generate"},
    {"model", [](v1::GenerateRequest& r) { r.set_model("idsonly"); }, grpc::FAILED_PRECONDITION, "has no tokenizer"},
    {"stop",
     [](v1::GenerateRequest& r) {
       r.set_model("idsonly");
       r.mutable_token_ids()->add_ids(1);
       r.mutable_sampling()->add_stop("x");
     },
     grpc::FAILED_PRECONDITION, "has no tokenizer"},
};

INSTANTIATE_TEST_SUITE_P(Fields, GenerateRefuses, testing::ValuesIn(kRefused), RowName);

TEST(GenerateLimits, InvalidUtf8IsRefusedAndTheNextCallIsServed) {
  // GenerateRequest{model = "decoder", text = "\xFF"}, as no generated client would send it.
  const std::string bytes = std::string("\x0A\x07") + "decoder" + "\x12\x01\xFF";
  std::string response;
  const grpc::Status status =
      RawCall(Daemons().channel(), "/automodeld.v1.InferenceService/Generate", bytes, &response);
  EXPECT_EQ(status.error_code(), kInvalid);
  EXPECT_EQ(status.error_message(), "text: invalid UTF-8 at byte 0");
  EXPECT_TRUE(Generate(Daemons().inference(), TextRequest("decoder", "abc", 2)).status.ok());
}

}  // namespace
}  // namespace automodeld
