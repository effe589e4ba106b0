// Every field of GenerateRequest at the edges of its range.
#include <gtest/gtest.h>

#include <limits>

#include "tests/service/generate_row.h"

namespace automodeld {
namespace {

class GenerateTakes : public testing::TestWithParam<GenerateRow> {};

TEST_P(GenerateTakes, TheEdgeOfTheRange) {
  static TestDaemon daemon({"decoder"});
  v1::GenerateRequest request = TextRequest("decoder", "abc", 4);
  GetParam().change(request);
  const Answer answer = Generate(daemon.inference(), request);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_GE(answer.usage.completion_tokens(), 1);
}

const GenerateRow kTaken[] = {
    {"max_tokens", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_max_tokens(1); }, grpc::OK, ""},
    {"max_tokens", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_max_tokens(1048576); }, grpc::OK, ""},
    {"min_tokens", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_min_tokens(4); }, grpc::OK, ""},
    {"temperature", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_temperature(100); }, grpc::OK, ""},
    {"top_p", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_top_p(1e-30F); }, grpc::OK, ""},
    {"top_k", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_top_k(258); }, grpc::OK, ""},
    {"min_p", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_min_p(1); }, grpc::OK, ""},
    {"repetition_penalty", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_repetition_penalty(100); }, grpc::OK,
     ""},
    {"presence_penalty", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_presence_penalty(-2); }, grpc::OK, ""},
    {"frequency_penalty", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_frequency_penalty(2); }, grpc::OK, ""},
    {"logit_bias",
     [](v1::GenerateRequest& r) {
       r.mutable_sampling()->mutable_logit_bias()->insert({257, -100.0F});
     },
     grpc::OK, ""},
    {"stop", [](v1::GenerateRequest& r) { r.mutable_sampling()->add_stop(std::string(256, 'x')); }, grpc::OK, ""},
    {"stop_token_ids", [](v1::GenerateRequest& r) { r.mutable_sampling()->add_stop_token_ids(257); }, grpc::OK, ""},
    {"logprobs", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_logprobs(20); }, grpc::OK, ""},
    {"n", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_n(16); }, grpc::OK, ""},
    {"priority", [](v1::GenerateRequest& r) { r.set_priority(-100); }, grpc::OK, ""},
    {"seed", [](v1::GenerateRequest& r) { r.mutable_sampling()->set_seed(std::numeric_limits<uint64_t>::max()); },
     grpc::OK, ""},
    {"text", [](v1::GenerateRequest& r) { r.set_text(std::string(kFakeModelLen - 2, 'x')); }, grpc::OK, ""},
    {"token_ids", [](v1::GenerateRequest& r) { r.mutable_token_ids()->add_ids(257); }, grpc::OK, ""},
};

INSTANTIATE_TEST_SUITE_P(Fields, GenerateTakes, testing::ValuesIn(kTaken), RowName);

}  // namespace
}  // namespace automodeld
