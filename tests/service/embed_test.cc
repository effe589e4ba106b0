// Embed from a client's side.
#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <functional>

#include "tests/await_that.h"
#include "tests/service/test_daemon.h"

namespace automodeld {
namespace {

using testing::FloatNear;
using testing::HasSubstr;
using testing::SizeIs;

v1::EmbedRequest Texts(const std::string& model, const std::vector<std::string>& texts) {
  v1::EmbedRequest request;
  request.set_model(model);
  for (const std::string& text : texts) request.add_inputs()->set_text(text);
  return request;
}

grpc::Status Embed(TestDaemon& daemon, const v1::EmbedRequest& request, v1::EmbedResponse* response) {
  grpc::ClientContext context;
  return daemon.inference().Embed(&context, request, response);
}

std::vector<float> Expected(const std::string& text, bool normalize = true) {
  Request request;
  request.kind = Request::Kind::kEmbed;
  request.prompt = {256};
  for (const char c : text) request.prompt.push_back(static_cast<unsigned char>(c));
  request.embed.normalize = normalize;
  return FakeRunner::ExpectedEmbedding(request, kFakeHidden);
}

std::vector<float> Values(const v1::Embedding& embedding) {
  return {embedding.values().begin(), embedding.values().end()};
}

TEST(Embed, AnswersEveryInputInOrder) {
  TestDaemon daemon({"encoder"});
  std::vector<std::string> texts(2048);
  for (size_t i = 0; i < texts.size(); ++i) texts[i] = "text " + std::to_string(i);
  v1::EmbedResponse response;
  const grpc::Status status = Embed(daemon, Texts("encoder", texts), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.embeddings_size(), 2048);
  for (int i = 0; i < 2048; ++i)
    ASSERT_EQ(Values(response.embeddings(i)), Expected(texts[static_cast<size_t>(i)])) << i;
  EXPECT_EQ(response.embeddings(7).num_tokens(), 7);
  EXPECT_THAT(daemon.loader().steps("encoder")->violations(), SizeIs(0));
}

// Enough text for several threads to share.
TEST(Embed, ErrorsAmongManyTextsStayWithTheirInputs) {
  TestDaemon daemon({"encoder"}, [](DaemonConfig& config, FakeLoader&) { config.worker_threads = 8; });
  std::vector<std::string> texts(1000);
  for (size_t i = 0; i < texts.size(); ++i) texts[i] = i % 7 == 3 ? "" : std::string(1 + i % 90, 'x');
  v1::EmbedResponse response;
  for (int round = 0; round < 4; ++round) {
    ASSERT_TRUE(Embed(daemon, Texts("encoder", texts), &response).ok());
    for (size_t i = 0; i < texts.size(); ++i) {
      const v1::Embedding& embedding = response.embeddings(static_cast<int>(i));
      ASSERT_EQ(embedding.has_error(), texts[i].empty()) << i;
      ASSERT_EQ(embedding.num_tokens(), texts[i].empty() ? 0 : static_cast<int>(texts[i].size()) + 1) << i;
      ASSERT_EQ(Values(embedding), texts[i].empty() ? std::vector<float>() : Expected(texts[i])) << i;
    }
  }
}

TEST(Embed, ADecoderAnswersEmbedAndGenerateAtOnce) {
  TestDaemon daemon({"decoder"});
  grpc::ClientContext context;
  const auto reader = daemon.inference().Generate(&context, TextRequest("decoder", "abc", 500));
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(daemon, Texts("decoder", {"one", "two"}), &response).ok());
  EXPECT_EQ(Values(response.embeddings(1)), Expected("two"));
  EXPECT_TRUE(ReadAll(reader.get()).status.ok());
  AwaitThat([&] { return daemon.Load("decoder").kv_pages_used() == 0; });
}

TEST(Embed, AnInputThatFailsHasItsOwnErrorAndTheOthersAreAnswered) {
  TestDaemon daemon({"encoder"}, [](DaemonConfig&, FakeLoader& loader) { loader.limits.max_model_len = 8; });
  v1::EmbedRequest request = Texts("encoder", {"one", "", "12345678", "two"});
  request.add_inputs();
  request.add_inputs()->mutable_token_ids()->add_ids(258);
  request.add_inputs()->mutable_token_ids();
  request.add_inputs()->set_text(std::string((8 << 20) + 1, '1'));
  request.add_inputs()->mutable_token_ids()->mutable_ids()->Resize(1'048'577, 1);
  request.set_truncate(false);
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(daemon, request, &response).ok());
  EXPECT_EQ(Values(response.embeddings(0)), Expected("one"));
  EXPECT_EQ(Values(response.embeddings(3)), Expected("two"));
  const auto error = [&](int i) { return response.embeddings(i).error().message(); };
  EXPECT_EQ(response.embeddings(1).error().code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(error(1), "text: 0 bytes is outside 1..8388608");
  EXPECT_EQ(error(2), "input: 9 tokens is outside 1..8");
  EXPECT_EQ(error(4), "input: one of text and token_ids must be given");
  EXPECT_EQ(error(5), "token_ids[0]: 258 is outside 0..257");
  EXPECT_EQ(error(6), "input: 0 tokens is outside 1..8");
  EXPECT_EQ(error(7), "text: 8388609 bytes is outside 1..8388608");
  EXPECT_EQ(error(8), "token_ids: 1048577 tokens is outside 0..1048576");
  EXPECT_THAT(response.embeddings(2).values(), SizeIs(0));
}

TEST(Embed, WhenEveryInputFailsTheCallStillEnds) {
  TestDaemon daemon({"encoder"});
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(daemon, Texts("encoder", {""}), &response).ok());
  EXPECT_TRUE(response.embeddings(0).has_error());
}

TEST(Embed, LongInputsAreCutBehindTheirSpecialTokens) {
  TestDaemon daemon({"encoder"}, [](DaemonConfig&, FakeLoader& loader) { loader.limits.max_model_len = 8; });
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(daemon, Texts("encoder", {"123456789", std::string(8 << 20, '1')}), &response).ok());
  EXPECT_EQ(Values(response.embeddings(0)), Expected("1234567"));
  EXPECT_EQ(response.embeddings(0).num_tokens(), 8);
  EXPECT_EQ(Values(response.embeddings(1)), Expected("1111111"));
}

TEST(Embed, PromptNamePutsTheCheckpointsPromptBeforeEachText) {
  TestDaemon daemon({"encoder"});
  v1::EmbedRequest request = Texts("encoder", {"one"});
  request.set_prompt_name("query");
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(daemon, request, &response).ok());
  EXPECT_EQ(Values(response.embeddings(0)), Expected("q: one"));
}

TEST(Embed, DimensionsAndNormalizeReachTheModel) {
  TestDaemon daemon({"encoder"});
  v1::EmbedRequest request = Texts("encoder", {"one"});
  request.set_dimensions(3);
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(daemon, request, &response).ok());
  EXPECT_EQ(response.embeddings(0).values_size(), 3);
  request.clear_dimensions();
  request.set_normalize(false);
  ASSERT_TRUE(Embed(daemon, request, &response).ok());
  EXPECT_EQ(Values(response.embeddings(0)), Expected("one", false));
}

// IEEE half precision, read back by its definition.
float FromHalf(const std::string& packed, size_t i) {
  const int bits = static_cast<unsigned char>(packed[2 * i]) | static_cast<unsigned char>(packed[2 * i + 1]) << 8;
  const int exponent = (bits >> 10) & 31;
  const float mantissa = static_cast<float>(bits & 1023) / 1024.0F;
  const float magnitude = exponent == 0 ? std::ldexp(mantissa, -14) : std::ldexp(1.0F + mantissa, exponent - 15);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(Embed, Float16IsTheSameVectorInHalfPrecision) {
  TestDaemon daemon({"encoder"});
  v1::EmbedRequest request = Texts("encoder", {"one"});
  request.set_encoding(v1::EMBEDDING_ENCODING_FLOAT16);
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(daemon, request, &response).ok());
  const std::vector<float> expected = Expected("one");
  ASSERT_EQ(response.embeddings(0).packed().size(), 2 * expected.size());
  EXPECT_EQ(response.embeddings(0).values_size(), 0);
  for (size_t i = 0; i < expected.size(); ++i) {  // half the distance of two neighbours below 1
    EXPECT_THAT(FromHalf(response.embeddings(0).packed(), i), FloatNear(expected[i], 0x1p-12F));
  }
}

TEST(Embed, Int8IsTheSameVectorTimesItsScale) {
  TestDaemon daemon({"encoder"});
  v1::EmbedRequest request = Texts("encoder", {"one"});
  request.set_encoding(v1::EMBEDDING_ENCODING_INT8);
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(daemon, request, &response).ok());
  const v1::Embedding& embedding = response.embeddings(0);
  const std::vector<float> expected = Expected("one");
  ASSERT_EQ(embedding.packed().size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto byte = static_cast<signed char>(embedding.packed()[i]);
    EXPECT_THAT(static_cast<float>(byte) * embedding.scale(), FloatNear(expected[i], embedding.scale() * 0.51F));
  }
}

struct Row {
  std::string name;
  std::function<void(v1::EmbedRequest&)> change;
  grpc::StatusCode code;
  std::string message;
};

void PrintTo(const Row& row, std::ostream* out) { *out << row.name; }

class EmbedRefuses : public testing::TestWithParam<Row> {};

TEST_P(EmbedRefuses, NamingFieldValueAndRange) {
  static TestDaemon daemon({"encoder", "idsonly"});
  v1::EmbedRequest request = Texts("encoder", {"one"});
  GetParam().change(request);
  v1::EmbedResponse response;
  const grpc::Status status = Embed(daemon, request, &response);
  EXPECT_EQ(status.error_code(), GetParam().code);
  EXPECT_THAT(status.error_message(), HasSubstr(GetParam().message));
}

constexpr auto kInvalid = grpc::INVALID_ARGUMENT;

INSTANTIATE_TEST_SUITE_P(
    Fields, EmbedRefuses,
    testing::Values(Row{"Model", [](auto& r) { r.clear_model(); }, kInvalid, "model: must be given"},
                    Row{"UnknownModel", [](auto& r) { r.set_model("x"); }, grpc::NOT_FOUND, "loaded: encoder, idsonly"},
                    Row{"NoInputs", [](auto& r) { r.clear_inputs(); }, kInvalid, "inputs: 0 inputs is outside 1..2048"},
                    Row{"TooManyInputs",
                        [](auto& r) {
                          while (r.inputs_size() < 2049) r.add_inputs()->set_text("x");
                        },
                        kInvalid, "inputs: 2049 inputs is outside 1..2048"},
                    Row{"Pooling", [](auto& r) { r.set_pooling("median"); }, kInvalid,
                        "pooling: it is none of mean, cls"},
                    Row{"Dimensions0", [](auto& r) { r.set_dimensions(0); }, kInvalid, "dimensions: 0 is outside 1..8"},
                    Row{"Dimensions9", [](auto& r) { r.set_dimensions(9); }, kInvalid, "dimensions: 9 is outside 1..8"},
                    Row{"PromptName", [](auto& r) { r.set_prompt_name("x"); }, kInvalid, "prompt_name: it is none of"},
                    Row{"Encoding", [](auto& r) { r.set_encoding(static_cast<v1::EmbeddingEncoding>(9)); }, kInvalid,
                        "encoding: 9 is outside 0..3"}),
    [](const auto& row) { return row.param.name; });

TEST(Embed, CancelEndsTheCallAndTheModelServesOn) {
  TestDaemon daemon({"encoder"});
  const auto steps = daemon.loader().steps("encoder");
  steps->Hold();
  grpc::ClientContext context;
  std::thread canceller([&] {
    steps->AwaitLaunched(1);
    context.TryCancel();
  });
  v1::EmbedResponse response;
  const grpc::Status status =
      daemon.inference().Embed(&context, Texts("encoder", std::vector<std::string>(300, "x")), &response);
  canceller.join();
  EXPECT_EQ(status.error_code(), grpc::CANCELLED);
  steps->Release();
  AwaitThat([&] { return daemon.Load("encoder").running() == 0 && daemon.Load("encoder").waiting() == 0; });
  EXPECT_TRUE(Embed(daemon, Texts("encoder", {"one"}), &response).ok());
}

}  // namespace
}  // namespace automodeld
