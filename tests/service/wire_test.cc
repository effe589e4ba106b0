// Requests that cannot be read: what they are answered, and that nothing else comes of them.
#include "server/wire.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <random>

#include "tests/service/test_daemon.h"

namespace automodeld {
namespace {

using google::protobuf::Message;

class Wire : public testing::Test {
 private:
  google::protobuf::LogSilencer silence_;  // as the daemon is silent
};

grpc::ByteBuffer Buffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

// Every byte in a slice of its own.
grpc::ByteBuffer Scattered(const std::string& bytes) {
  std::vector<grpc::Slice> slices;
  for (const char byte : bytes) slices.emplace_back(std::string(1, byte));
  return grpc::ByteBuffer(slices.data(), slices.size());
}

// The bytes of `message`, in which every '@' becomes one that no UTF-8 holds.
std::string Spoil(const Message& message) {
  std::string bytes = message.SerializeAsString();
  std::replace(bytes.begin(), bytes.end(), '@', '\xFF');
  return bytes;
}

auto IsInvalid(const std::string& message) { return testing::Eq(absl::InvalidArgumentError(message)); }

template <typename Request>
absl::Status ParseAs(const std::string& bytes) {
  Request request;
  return Parse(Buffer(bytes), &request);
}

v1::ChatMessage Said(const std::vector<std::string>& texts) {
  v1::ChatMessage message;
  message.set_role("user");
  for (const std::string& text : texts) message.add_content()->set_text(text);
  return message;
}

TEST_F(Wire, InvalidUtf8IsNamedByItsPathInGenerate) {
  const auto message = [](auto change) {
    v1::GenerateRequest request;
    request.set_model("decoder");
    change(request);
    return ParseAs<v1::GenerateRequest>(Spoil(request));
  };
  EXPECT_THAT(message([](auto& r) { r.set_model("@"); }), IsInvalid("model: invalid UTF-8 at byte 0"));
  EXPECT_THAT(message([](auto& r) { r.set_text("äb@@"); }), IsInvalid("text: invalid UTF-8 at byte 3"));
  EXPECT_THAT(message([](auto& r) {
                for (const char* text : {"x", "@x", "y@"}) r.mutable_sampling()->add_stop(text);
              }),
              IsInvalid("sampling.stop[1]: invalid UTF-8 at byte 0"));
  EXPECT_THAT(message([](auto& r) {
                *r.mutable_chat()->add_messages() = Said({"a"});
                *r.mutable_chat()->add_messages() = Said({"b", "c", "d@"});
              }),
              IsInvalid("chat.messages[1].content[2].text: invalid UTF-8 at byte 1"));
  EXPECT_THAT(message([](auto& r) {
                auto* image = r.mutable_chat()->add_messages()->add_content()->mutable_image();
                image->set_data("@");  // bytes may hold anything
                image->set_media_type("image/@");
              }),
              IsInvalid("chat.messages[0].content[0].image.media_type: invalid UTF-8 at byte 6"));
}

TEST_F(Wire, InvalidUtf8IsNamedByItsPathInTheOthers) {
  v1::EmbedRequest embed;
  embed.add_inputs()->mutable_token_ids()->add_ids(1);
  embed.add_inputs()->set_text("@");
  embed.set_prompt_name("@");
  EXPECT_THAT(ParseAs<v1::EmbedRequest>(Spoil(embed)), IsInvalid("inputs[1].text: invalid UTF-8 at byte 0"));
  v1::LoadModelRequest load;
  load.mutable_fp8_config()->add_filter_fqns("lm_head");
  load.mutable_fp8_config()->add_filter_fqns("lm@head");
  EXPECT_THAT(ParseAs<v1::LoadModelRequest>(Spoil(load)),
              IsInvalid("fp8_config.filter_fqns[1]: invalid UTF-8 at byte 2"));
  load.Clear();
  load.set_device("cuda@");
  EXPECT_THAT(ParseAs<v1::LoadModelRequest>(Spoil(load)), IsInvalid("device: invalid UTF-8 at byte 4"));
}

TEST_F(Wire, InvalidUtf8IsNamedInKeysAndValuesOfMaps) {
  v1::LoadModelRequest request;
  (*request.mutable_op_overrides())["rms@norm"] = "eager";
  EXPECT_THAT(ParseAs<v1::LoadModelRequest>(Spoil(request)), IsInvalid("op_overrides[0].key: invalid UTF-8 at byte 3"));
  request.clear_op_overrides();
  (*request.mutable_op_overrides())["rms_norm"] = "@";
  EXPECT_THAT(ParseAs<v1::LoadModelRequest>(Spoil(request)),
              IsInvalid("op_overrides[0].value: invalid UTF-8 at byte 0"));
}

TEST_F(Wire, BytesAndUnknownFieldsMayHoldAnything) {
  v1::GenerateRequest request;
  request.mutable_chat()->add_messages()->add_content()->mutable_image()->set_data("@@");
  EXPECT_TRUE(ParseAs<v1::GenerateRequest>(Spoil(request)).ok());
  EXPECT_TRUE(ParseAs<v1::GenerateRequest>("\x7A\x02\xFF\xFF").ok());  // field 15
  EXPECT_THAT(ParseAs<v1::GenerateRequest>("\x7A\x02\xFF\xFF\x0A\x01\xFF"),
              IsInvalid("model: invalid UTF-8 at byte 0"));
}

// The check that names the field and protobuf's own have to agree on what UTF-8 is.
TEST_F(Wire, WhateverProtobufRefusesAsTextIsNamed) {
  const std::string edges = "a\x7F\x80\x8F\x90\x9F\xA0\xBF\xC1\xC2\xF5\xFF";
  std::string text(4, 'a');
  for (int lead = 0; lead < 256; ++lead) {
    for (size_t rest = 0; rest < edges.size() * edges.size() * edges.size(); ++rest) {
      text[0] = static_cast<char>(lead);
      text[1] = edges[rest % edges.size()];
      text[2] = edges[rest / edges.size() % edges.size()];
      text[3] = edges[rest / edges.size() / edges.size()];
      const absl::Status status = ParseAs<v1::GetModelRequest>("\x0A\x04" + text);
      if (status.ok()) continue;
      ASSERT_THAT(std::string(status.message()), testing::StartsWith("model: invalid UTF-8 at byte"));
    }
  }
}

TEST_F(Wire, BytesThatAreNoMessageAreRefusedByItsName) {
  const auto refused = IsInvalid("the request is no automodeld.v1.EmbedRequest");
  EXPECT_THAT(ParseAs<v1::EmbedRequest>("\xFF\xFF\xFF\xFF"), refused);
  EXPECT_THAT(ParseAs<v1::EmbedRequest>("\x0A\x05kjv"), refused);                      // shorter than it says
  EXPECT_THAT(ParseAs<v1::EmbedRequest>("\x12\x04\x0A\xFF\xFF\x03"), refused);         // and within a field
  EXPECT_THAT(ParseAs<v1::EmbedRequest>(std::string(2, '\0')), refused);               // field 0
  EXPECT_THAT(ParseAs<v1::EmbedRequest>("\x0C"), refused);                             // the end of no group
  EXPECT_THAT(ParseAs<v1::EmbedRequest>("\x0A\xFF\xFF\xFF\xFF\xFF\x7F"), refused);     // 4 TiB long
  EXPECT_THAT(ParseAs<v1::EmbedRequest>(std::string(1'000'000, '\x0B')), refused);     // groups in groups
  EXPECT_THAT(ParseAs<v1::EmbedRequest>("\x0A\x03kjv\x12\x03\x0A\x05\x61"), refused);  // longer than what holds it
}

TEST_F(Wire, NoBytesAreAMessageAndNoBufferIsNone) {
  v1::EmbedRequest request;
  EXPECT_TRUE(Parse(Buffer(""), &request).ok());
  EXPECT_THAT(Parse(grpc::ByteBuffer(), &request), IsInvalid("the request is no automodeld.v1.EmbedRequest"));
}

v1::GenerateRequest Full() {
  v1::GenerateRequest request;
  request.set_model("decoder");
  *request.mutable_chat()->add_messages() = Said({"ä", "b@", "c"});
  request.mutable_sampling()->add_stop("x@");
  (*request.mutable_sampling()->mutable_logit_bias())[7] = 1.5F;
  request.mutable_sampling()->set_max_tokens(3);
  return request;
}

TEST_F(Wire, HowTheBytesAreCutIntoSlicesChangesNothing) {
  const std::string bytes = Full().SerializeAsString();
  v1::GenerateRequest request;
  ASSERT_TRUE(Parse(Scattered(bytes), &request).ok());
  EXPECT_EQ(request.SerializeAsString(), bytes);
  EXPECT_THAT(Parse(Scattered(Spoil(Full())), &request),
              IsInvalid("chat.messages[0].content[1].text: invalid UTF-8 at byte 1"));
}

// Every beginning, and bytes changed at random: parsed exactly if protobuf does, and refused with a reason else.
TEST_F(Wire, DamagedRequestsAreParsedOrRefusedWithAReason) {
  std::mt19937 random(7);
  const std::string whole = Full().SerializeAsString();
  for (size_t round = 0; round < 20'000; ++round) {
    std::string bytes = whole.substr(0, round % (whole.size() + 1));
    for (size_t i = round / whole.size() % 4; i > 0 && !bytes.empty(); --i) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    const absl::Status status = ParseAs<v1::GenerateRequest>(bytes);
    ASSERT_EQ(status.ok(), v1::GenerateRequest().ParseFromString(bytes));
    if (status.ok()) continue;
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    ASSERT_THAT(std::string(status.message()), testing::ContainsRegex("the request is no|: invalid UTF-8 at byte"));
  }
}

TEST_F(Wire, SerializeReplacesWhatTheBufferHeld) {
  grpc::ByteBuffer bytes = Buffer("something");
  v1::GenerateRequest request;
  for (const v1::GenerateRequest& sent :
       {Full(), v1::GenerateRequest(), TextRequest("m", std::string(3 << 20, 'x'), 1)}) {
    ASSERT_TRUE(Serialize(sent, &bytes).ok());
    EXPECT_EQ(bytes.Length(), sent.ByteSizeLong());
    ASSERT_TRUE(Parse(bytes, &request).ok());
    EXPECT_EQ(request.SerializeAsString(), sent.SerializeAsString());
  }
}

// A call that ends on the client's side without having sent a request.
grpc::Status CallWithoutRequest(const std::shared_ptr<grpc::Channel>& channel, const std::string& method) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  const auto call = stub.PrepareCall(&context, method, &queue);
  grpc::Status status;
  void* tag = nullptr;
  bool ok = false;
  call->StartCall(nullptr);
  queue.Next(&tag, &ok);
  call->WritesDone(nullptr);
  queue.Next(&tag, &ok);
  call->Finish(&status, nullptr);
  queue.Next(&tag, &ok);
  return status;
}

struct Rpc {
  const char* method;
  const char* request;  // its message
  bool has_text;        // field 1 is a string
};

class EveryRpc : public testing::TestWithParam<Rpc> {};

TEST_P(EveryRpc, RefusesBytesThatAreNoRequestAndServesOn) {
  TestDaemon daemon({"decoder"});
  const auto [method, request, has_text] = GetParam();
  std::string answer;
  const auto refuses = [&, path = std::string(method)](const std::string& bytes, const std::string& message) {
    const grpc::Status status = RawCall(daemon.channel(), path, bytes, &answer);
    EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
    EXPECT_EQ(status.error_message(), message);
  };
  const std::string not_one = std::string("the request is no automodeld.v1.") + request;
  refuses("\xFF\xFF\xFF\xFF", not_one);
  refuses(std::string(200, '\x0B'), not_one);
  EXPECT_EQ(CallWithoutRequest(daemon.channel(), method).error_message(), not_one);
  if (has_text) refuses("\x0A\x02\x61\xFF", "model: invalid UTF-8 at byte 1");
  EXPECT_TRUE(Generate(daemon.inference(), TextRequest("decoder", "abc", 2)).status.ok());
}

const Rpc kRpcs[] = {
    {"/automodeld.v1.InferenceService/Generate", "GenerateRequest", true},
    {"/automodeld.v1.InferenceService/Embed", "EmbedRequest", true},
    {"/automodeld.v1.InferenceService/Tokenize", "TokenizeRequest", true},
    {"/automodeld.v1.InferenceService/Detokenize", "DetokenizeRequest", true},
    {"/automodeld.v1.ModelService/LoadModel", "LoadModelRequest", true},
    {"/automodeld.v1.ModelService/UnloadModel", "UnloadModelRequest", true},
    {"/automodeld.v1.ModelService/ListModels", "ListModelsRequest", false},
    {"/automodeld.v1.ModelService/GetModel", "GetModelRequest", true},
};

INSTANTIATE_TEST_SUITE_P(Services, EveryRpc, testing::ValuesIn(kRpcs), [](const auto& row) {
  const std::string method = row.param.method;
  return method.substr(method.rfind('/') + 1);
});

TEST(EveryRpc, IsAmongThoseTested) {
  const auto count = [](const google::protobuf::Descriptor* any, const char* service) {
    return any->file()->FindServiceByName(service)->method_count();
  };
  EXPECT_EQ(static_cast<int>(std::size(kRpcs)), count(v1::GenerateRequest::descriptor(), "InferenceService") +
                                                    count(v1::LoadModelRequest::descriptor(), "ModelService"));
}

}  // namespace
}  // namespace automodeld
