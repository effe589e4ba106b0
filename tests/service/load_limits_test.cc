// Every field of LoadModelRequest with values outside its range.
#include <gmock/gmock.h>

#include <functional>

#include "tests/service/test_daemon.h"

namespace automodeld {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

grpc::Status Load(TestDaemon& daemon, const v1::LoadModelRequest& request) {
  grpc::ClientContext context;
  const auto reader = daemon.models().LoadModel(&context, request);
  v1::LoadModelResponse message;
  EXPECT_FALSE(reader->Read(&message)) << "an answer before the refusal";
  return reader->Finish();
}

struct Row {
  std::string name;
  std::function<void(v1::LoadModelRequest&)> change;
  grpc::StatusCode code;
  std::string message;
};

void PrintTo(const Row& row, std::ostream* out) { *out << row.name; }

class LoadRefuses : public testing::TestWithParam<Row> {};

TEST_P(LoadRefuses, NamingFieldValueAndRange) {
  static TestDaemon daemon({});
  v1::LoadModelRequest request;
  request.set_model("decoder");
  request.set_config_json("{}");
  GetParam().change(request);
  const grpc::Status status = Load(daemon, request);
  EXPECT_EQ(status.error_code(), GetParam().code);
  EXPECT_THAT(status.error_message(), HasSubstr(GetParam().message));
  EXPECT_THAT(daemon.loader().requests(), SizeIs(0));
}

constexpr auto kInvalid = grpc::INVALID_ARGUMENT;
constexpr auto kLater = grpc::UNIMPLEMENTED;

INSTANTIATE_TEST_SUITE_P(
    Fields, LoadRefuses,
    testing::Values(
        Row{"Source", [](auto& r) { r.clear_source(); }, kInvalid, "source: one of path and config_json"},
        Row{"Path", [](auto& r) { r.set_path(""); }, kInvalid, "path: 0 bytes is outside 1..4096"},
        Row{"ConfigJson", [](auto& r) { r.set_config_json(""); }, kInvalid, "config_json: 0 bytes is outside"},
        Row{"LongConfigJson", [](auto& r) { r.set_config_json(std::string((1 << 20) + 1, ' ')); }, kInvalid,
            "config_json: 1048577 bytes is outside 1..1048576"},
        Row{"NoName", [](auto& r) { r.clear_model(); }, kInvalid, "model: must be given"},
        Row{"LongName", [](auto& r) { r.set_model(std::string(129, 'x')); }, kInvalid, "model: 129 bytes is outside"},
        Row{"NameCharacters", [](auto& r) { r.set_model("a b"); }, kInvalid, "model: a name has only"},
        Row{"NameNewline", [](auto& r) { r.set_model("a\nb"); }, kInvalid, "model: a name has only"},
        Row{"AutoClass", [](auto& r) { r.set_auto_class(static_cast<v1::AutoClass>(77)); }, kInvalid,
            "auto_class: 77 is outside 0..4"},
        Row{"SdpaUnspecified", [](auto& r) { r.add_sdpa_method(v1::SDPA_METHOD_UNSPECIFIED); }, kInvalid,
            "sdpa_method: 0 is outside 1..4"},
        Row{"SdpaTwice",
            [](auto& r) {
              r.add_sdpa_method(v1::SDPA_METHOD_MATH);
              r.add_sdpa_method(v1::SDPA_METHOD_MATH);
            },
            kInvalid, "sdpa_method: MATH occurs twice"},
        Row{"TorchDtype", [](auto& r) { r.set_torch_dtype("int8"); }, kInvalid,
            "torch_dtype: \"int8\" is not one of auto, bfloat16, bf16, "},
        Row{"Attention", [](auto& r) { r.set_attn_implementation("flash"); }, kInvalid,
            "attn_implementation: \"flash\" is not one of flash_attention_2, sdpa, eager"},
        Row{"Recipe", [](auto& r) { r.mutable_fp8_config()->set_recipe_name("x"); }, kInvalid,
            "fp8_config.recipe_name: \"x\" is not one of tensorwise, rowwise, rowwise_with_gw_hp"},
        Row{"Filters",
            [](auto& r) {
              for (int i = 0; i < 257; ++i) r.mutable_fp8_config()->add_filter_fqns("x");
            },
            kInvalid, "fp8_config.filter_fqns: 257 names is outside 0..256"},
        Row{"Overrides", [](auto& r) { r.set_config_overrides(std::string((1 << 20) + 1, ' ')); }, kInvalid,
            "config_overrides: 1048577 bytes"},
        Row{"SeedWithPath", [](auto& r) { r.set_path("x"), r.set_seed(1); }, kInvalid, "seed: only with config_json"},
        Row{"Device", [](auto& r) { r.set_device("cuda:-1"); }, kInvalid, "device: \"cuda:-1\" is not one of auto"},
        Row{"DeviceTpu", [](auto& r) { r.set_device("tpu"); }, kInvalid, "device: \"tpu\" is not one of auto"},
        Row{"ModelLen", [](auto& r) { r.mutable_engine()->set_max_model_len(0); }, kInvalid,
            "engine.max_model_len: 0 is outside 1..1048576"},
        Row{"NumSeqs", [](auto& r) { r.mutable_engine()->set_max_num_seqs(4097); }, kInvalid,
            "engine.max_num_seqs: 4097 is outside 1..4096"},
        Row{"ModelLenAbove", [](auto& r) { r.mutable_engine()->set_max_model_len(1'048'577); }, kInvalid,
            "engine.max_model_len: 1048577 is outside 1..1048576"},
        Row{"NumSeqsBelow", [](auto& r) { r.mutable_engine()->set_max_num_seqs(0); }, kInvalid,
            "engine.max_num_seqs: 0 is outside 1..4096"},
        Row{"BatchedTokensAbove", [](auto& r) { r.mutable_engine()->set_max_num_batched_tokens(1'048'577); }, kInvalid,
            "engine.max_num_batched_tokens: 1048577 is outside 1..1048576"},
        Row{"BatchedTokens", [](auto& r) { r.mutable_engine()->set_max_num_batched_tokens(-1); }, kInvalid,
            "engine.max_num_batched_tokens: -1 is outside"},
        Row{"KvBytes", [](auto& r) { r.mutable_engine()->set_kv_cache_bytes(0); }, kInvalid,
            "engine.kv_cache_bytes: 0 is outside 1.."},
        Row{"KvDtype", [](auto& r) { r.mutable_engine()->set_kv_cache_dtype("int4"); }, kInvalid,
            "engine.kv_cache_dtype: \"int4\" is not one of auto"},
        Row{"PrefixCaching", [](auto& r) { r.mutable_engine()->set_enable_prefix_caching(true); }, kLater,
            "engine.enable_prefix_caching: true is not supported"},
        Row{"Revision", [](auto& r) { r.set_revision("main"); }, kInvalid, "revision: only with path"},
        Row{"LongRevision",
            [](auto& r) {
              r.set_path("x");
              r.set_revision(std::string(257, 'r'));
            },
            kInvalid, "revision: 257 bytes is outside 0..256"},
        Row{"EmptyFilter", [](auto& r) { r.mutable_fp8_config()->add_filter_fqns(""); }, kInvalid,
            "fp8_config.filter_fqns: an empty name"}),
    [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace automodeld
