#include "server/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/service/generated_files.h"

namespace automodeld {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

// A YAML file that goes with the test.
class File {
 public:
  explicit File(const std::string& text)
      : path_(std::filesystem::path(::testing::TempDir()) /
              (std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()) + ".yaml")) {
    std::ofstream(path_) << text;
  }
  ~File() { std::filesystem::remove(path_); }
  FlagValues flags() const { return {{"--config", {path_.string()}}}; }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

std::string Error(const FlagValues& flags, const Environment& environment = {}) {
  const auto config = ReadServeConfig(flags, environment);
  if (config.ok()) return "";
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(config.status().message());
}

std::string FileError(const std::string& yaml) { return Error(File(yaml).flags()); }

ServeConfig Read(const FlagValues& flags, const Environment& environment = {}) {
  auto config = ReadServeConfig(flags, environment);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ServeConfig();
}

TEST(Options, WithoutAnySourceEveryOptionHasItsDefault) {
  const ServeConfig config = Read({});
  EXPECT_EQ(config.daemon.listen, "127.0.0.1:50051");
  EXPECT_EQ(config.daemon.http_listen, "127.0.0.1:8080");
  EXPECT_EQ(config.daemon.admin_listen, "");
  EXPECT_EQ(config.daemon.max_queue_size, 512);
  EXPECT_EQ(config.daemon.drain_timeout, absl::Seconds(45));
  EXPECT_FALSE(config.daemon.insecure_listen);
  EXPECT_EQ(config.log.format, "auto");
  EXPECT_THAT(config.daemon.models, SizeIs(0));
}

TEST(Options, EachDefaultIsWithinItsRangeAndIsWhatTheDaemonHas) {
  for (const Option& option : ServeOptions()) {
    if (option.default_value.empty()) continue;
    ServeConfig config;
    EXPECT_TRUE(option.set(option.flag, {option.default_value}, config).ok()) << option.flag;
    EXPECT_EQ(config.daemon.max_message_bytes, DaemonConfig().max_message_bytes) << option.flag;
    EXPECT_EQ(config.daemon.drain_timeout, DaemonConfig().drain_timeout) << option.flag;
  }
}

TEST(Options, FlagWinsOverEnvironmentOverFileOverDefault) {
  const File file("max_queue_size: 3\ndrain_timeout: 3s\nlog_level: error\n");
  FlagValues flags = file.flags();
  flags["--max-queue-size"] = {"1"};
  const Environment environment = {{"AUTOMODELD_MAX_QUEUE_SIZE", "2"}, {"AUTOMODELD_DRAIN_TIMEOUT", "2s"}};
  const ServeConfig config = Read(flags, environment);
  EXPECT_EQ(config.daemon.max_queue_size, 1);
  EXPECT_EQ(config.daemon.drain_timeout, absl::Seconds(2));
  EXPECT_EQ(config.log.level, "error");
  EXPECT_EQ(config.log.format, "auto");
}

TEST(Options, EachOptionCanBeSetInEachOfItsThreePlaces) {
  const std::map<std::string, std::string> values = {{"--listen", "127.0.0.1:1"},
                                                     {"--admin-listen", "127.0.0.1:2"},
                                                     {"--http-listen", ""},
                                                     {"--insecure-listen", "true"},
                                                     {"--model-root", "/models"},
                                                     {"--drain-timeout", "1m"},
                                                     {"--max-queue-size", "7"},
                                                     {"--max-message-bytes", "1MiB"},
                                                     {"--max-concurrent-streams", "9"},
                                                     {"--worker-threads", "3"},
                                                     {"--threads", "2"},
                                                     {"--log-level", "debug"},
                                                     {"--log-format", "json"}};
  for (const Option& option : ServeOptions()) {
    if (option.key.empty() || option.repeatable) continue;
    ASSERT_EQ(values.count(option.flag), 1U) << "add a value for " << option.flag;
    const std::string& value = values.at(option.flag);
    ServeConfig expected;
    ASSERT_TRUE(option.set(option.flag, {value}, expected).ok());
    const File file(option.key + ": \"" + value + "\"\n");
    for (const ServeConfig& config :
         {Read({{option.flag, {value}}}), Read({}, {{option.environment, value}}), Read(file.flags())}) {
      const auto fields = [](const ServeConfig& c) {
        const DaemonConfig& d = c.daemon;
        return std::tuple(d.listen, d.admin_listen, d.http_listen, d.insecure_listen, d.model_root.string(),
                          d.drain_timeout, d.max_queue_size, d.max_message_bytes, d.max_concurrent_streams,
                          d.worker_threads, c.threads, c.log.level, c.log.format);
      };
      EXPECT_EQ(fields(config), fields(expected)) << option.flag;
      EXPECT_NE(fields(config), fields(ServeConfig())) << option.flag;
    }
  }
}

TEST(Options, FileMayBeNamedByTheEnvironment) {
  const File file("max_queue_size: 3\n");
  EXPECT_EQ(Read({}, {{"AUTOMODELD_CONFIG", file.path()}}).daemon.max_queue_size, 3);
}

TEST(Options, ValueOutsideItsRangeIsNamedAsItWasGiven) {
  EXPECT_EQ(Error({{"--max-queue-size", {"0"}}}), "--max-queue-size: 0 is outside 1..65536");
  EXPECT_EQ(Error({}, {{"AUTOMODELD_MAX_QUEUE_SIZE", "65537"}}),
            "AUTOMODELD_MAX_QUEUE_SIZE: 65537 is outside 1..65536");
  EXPECT_THAT(FileError("max_queue_size: -1\n"), HasSubstr(".yaml: max_queue_size: -1 is outside 1..65536"));
}

TEST(Options, EveryWrongValueSaysWhatWouldBeRight) {
  const std::vector<std::vector<std::string>> cases = {
      {"--max-queue-size", "many", "\"many\" is not a whole number in 1..65536"},
      {"--max-queue-size", "", "\"\" is not a whole number in 1..65536"},
      {"--max-queue-size", "99999999999999999999", "is not a whole number"},
      {"--worker-threads", "-1", "-1 is outside 0..256"},
      {"--threads", "1025", "1025 is outside 0..1024"},
      {"--max-concurrent-streams", "0", "0 is outside 1..65536"},
      {"--max-message-bytes", "1KiB", "1KiB is outside 64KiB..1GiB"},
      {"--max-message-bytes", "9999999999GiB", "is not a number of bytes"},
      {"--max-message-bytes", "32MB", "\"32MB\" is not a number of bytes such as 33554432 or 32MiB"},
      {"--drain-timeout", "45", "\"45\" is not a duration such as 45s or 1m30s"},
      {"--drain-timeout", "-1s", "-1s is outside 0s..1h"},
      {"--drain-timeout", "inf", "inf is outside 0s..1h"},
      {"--log-level", "loud", "\"loud\" is not one of trace, debug, info, warning, error, off"},
      {"--log-format", "xml", "\"xml\" is not one of auto, text, json"},
      {"--insecure-listen", "maybe", "\"maybe\" is not one of true, false"},
      {"--listen", "", "--listen: "},
      {"--listen", "nowhere", "--listen: "},
      {"--http-listen", "127.0.0.1:65536", "--http-listen: "},
      {"--model", "llama", "\"llama\" is not NAME=PATH"},
      {"--model", "=/m", "is not NAME=PATH"},
      {"--config", "/nonexistent.yaml", "--config: \"/nonexistent.yaml\" cannot be read: No such file or directory"}};
  for (const auto& row : cases) {
    const std::string error = Error({{row[0], {row[1]}}});
    EXPECT_THAT(error, HasSubstr(row[2]));
    EXPECT_THAT(error, ::testing::StartsWith(row[0]));
  }
}

TEST(Options, UnknownKeysAndVariablesAreErrorsThatNameTheNearest) {
  EXPECT_THAT(FileError("max_queue_siz: 3\n"),
              HasSubstr("max_queue_siz: unknown key; did you mean \"max_queue_size\"?"));
  EXPECT_EQ(Error({}, {{"AUTOMODELD_LISTN", "x"}}),
            "AUTOMODELD_LISTN: unknown variable; did you mean \"AUTOMODELD_LISTEN\"?");
  EXPECT_EQ(Error({}, {{"AUTOMODELD_SOMETHING_ELSE_ENTIRELY", "x"}}),
            "AUTOMODELD_SOMETHING_ELSE_ENTIRELY: unknown variable");
}

TEST(Options, ConfigIsNoKeyOfTheFile) { EXPECT_THAT(FileError("config: other.yaml\n"), HasSubstr("unknown key")); }

TEST(Options, VariablesThatKubernetesMakesForAServiceAreLeftAlone) {
  EXPECT_EQ(Error({}, {{"AUTOMODELD_SERVICE_HOST", "10.0.0.1"},
                       {"AUTOMODELD_SERVICE_PORT", "50051"},
                       {"AUTOMODELD_SERVICE_PORT_GRPC", "50051"},
                       {"AUTOMODELD_PORT", "tcp://10.0.0.1:50051"},
                       {"AUTOMODELD_PORT_50051_TCP", "tcp://10.0.0.1:50051"},
                       {"AUTOMODELD_PORT_50051_TCP_ADDR", "10.0.0.1"},
                       {"AUTOMODELD_ADMIN_SERVICE_HOST", "10.0.0.2"},
                       {"AUTOMODELD_SERVER", "127.0.0.1:1"},
                       {"PATH", "/bin"}}),
            "");
}

TEST(Options, APortThatIsNoServicesIsAMistake) {
  EXPECT_THAT(Error({}, {{"AUTOMODELD_PORT", "50051"}}), HasSubstr("AUTOMODELD_PORT: unknown variable"));
  EXPECT_THAT(Error({}, {{"AUTOMODELD_HTTP_PORT", "9090"}}), HasSubstr("AUTOMODELD_HTTP_PORT: unknown variable"));
  EXPECT_EQ(Error({}, {{"AUTOMODELD_HTTP_PORT", "udp://10.0.0.1:9090"}, {"AUTOMODELD_A_PORT", "sctp://10.0.0.1:1"}}),
            "");
}

TEST(Options, ModelsOfTheEnvironmentAreSeparatedByCommas) {
  const auto models = Read({}, {{"AUTOMODELD_MODEL", "a=/m/a,b=/m/b=c"}}).daemon.models;
  ASSERT_THAT(models, SizeIs(2));
  EXPECT_EQ(models[1].model(), "b");
  EXPECT_EQ(models[1].path(), "/m/b=c");
}

TEST(Options, FlagsReplaceTheModelsOfTheFile) {
  const File file("models:\n  - {model: a, path: /a}\n  - {model: b, path: /b}\n");
  EXPECT_THAT(Read(file.flags()).daemon.models, SizeIs(2));
  FlagValues flags = file.flags();
  flags["--model"] = {"c=/c"};
  const auto models = Read(flags).daemon.models;
  ASSERT_THAT(models, SizeIs(1));
  EXPECT_EQ(models[0].model(), "c");
}

TEST(Options, ANameIsGivenToOneModelOnly) {
  EXPECT_EQ(Error({{"--model", {"a=/a", "a=/b"}}}), "--model: the name \"a\" is given twice");
  EXPECT_EQ(Error({}, {{"AUTOMODELD_MODEL", "a=/a,a=/b"}}), "AUTOMODELD_MODEL: the name \"a\" is given twice");
  const File file("models: [{model: a, path: /a}, {model: a, path: /b}]\n");
  EXPECT_EQ(Error(file.flags()), file.path() + ": models: the name \"a\" is given twice");
}

TEST(Options, OpLibrariesAreAListInEachOfTheThreePlaces) {
  const std::vector<std::string> both = {"/a.so", "/b.so"};
  EXPECT_EQ(Read({{"--op-library", both}}).op_libraries, both);
  EXPECT_EQ(Read({}, {{"AUTOMODELD_OP_LIBRARY", "/a.so,/b.so"}}).op_libraries, both);
  EXPECT_EQ(Read(File("op_library: [/a.so, /b.so]\n").flags()).op_libraries, both);
  EXPECT_EQ(Read(File("op_library: /a.so\n").flags()).op_libraries, std::vector<std::string>{"/a.so"});
  EXPECT_THAT(FileError("op_library: [[/a.so]]\n"), HasSubstr("op_library: must be a single value"));
}

TEST(Options, ModelsOfTheFileKeepWhatIsSaidOfFp8AndEngine) {
  const File file(R"(
models:
  - model: llama
    path: /models/llama
    auto_class: CAUSAL_LM
    use_liger_kernel: false
    sdpa_method: [FLASH_ATTENTION, sdpa_method_math]
    torch_dtype: bfloat16
    fp8_config:
      recipe_name: rowwise
      filter_fqns: [lm_head, "7"]
      emulate: true
    revision: 1.0
    op_overrides: {rms_norm: "mycorp::rms_norm"}
    engine: {max_model_len: 2048, kv_cache_bytes: 1073741824, enable_prefix_caching: false}
  - {path: /models/other, fp8_config: {}}
)");
  const auto models = Read(file.flags()).daemon.models;
  ASSERT_THAT(models, SizeIs(2));
  const v1::LoadModelRequest& model = models[0];
  EXPECT_EQ(model.auto_class(), v1::AUTO_CLASS_CAUSAL_LM);
  EXPECT_TRUE(model.has_use_liger_kernel());
  EXPECT_FALSE(model.use_liger_kernel());
  EXPECT_THAT(model.sdpa_method(), ::testing::ElementsAre(v1::SDPA_METHOD_FLASH_ATTENTION, v1::SDPA_METHOD_MATH));
  EXPECT_EQ(model.torch_dtype(), "bfloat16");
  EXPECT_EQ(model.fp8_config().recipe_name(), "rowwise");
  EXPECT_THAT(model.fp8_config().filter_fqns(), ::testing::ElementsAre("lm_head", "7"));
  EXPECT_TRUE(model.fp8_config().emulate());
  EXPECT_EQ(model.revision(), "1.0");
  EXPECT_EQ(model.op_overrides().at("rms_norm"), "mycorp::rms_norm");
  EXPECT_EQ(model.engine().max_model_len(), 2048);
  EXPECT_EQ(model.engine().kv_cache_bytes(), 1073741824);
  EXPECT_TRUE(model.engine().has_enable_prefix_caching());
  EXPECT_TRUE(models[1].has_fp8_config());
}

TEST(Options, WhatIsWrongInTheFileIsNamedByItsPlace) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"models: [{path: /a, fp8_config: {recipe: x}}]", "models[0].fp8_config.recipe: unknown key"},
      {"models: [{path: /a}, {path: /b, sedd: 1}]", "models[1].sedd: unknown key; did you mean \"seed\"?"},
      {"models: [{path: /a, config_json: '{}'}]", "models[0]: only one of path, config_json may be given"},
      {"models: [{path: /a, sdpa_method: FAST}]", "models[0].sdpa_method: must be a list"},
      {"models: [{path: /a, sdpa_method: [FAST]}]", "\"FAST\" is not one of CUDNN_ATTENTION, FLASH_ATTENTION"},
      {"models: [{path: /a, engine: {max_model_len: long}}]",
       "models[0].engine.max_model_len: \"long\" is not a whole"},
      {"models: [{path: [a]}]", "models[0].path: must be a single value"},
      {"models: [{path: /a, engine: 5}]", "models[0].engine: must be a map"},
      {"models: [{path: /a, allow_unread_tensors: yes_or_no}]",
       "models[0].allow_unread_tensors: \"yes_or_no\" is not one of true, false"},
      {"models: [/a]", "models[0]: must be a map"},
      {"models: {a: /a}", "models: must be a list"},
      {"listen: [a, b]", "listen: must be a single value"},
      {"listen:", "listen: has no value"},
      {"listen: 127.0.0.1:1\nlisten: 127.0.0.1:2", "listen: given twice"},
      {"- listen", "is not a map of options"},
      {"listen: 'x", "line 1: "}};
  for (const auto& [yaml, error] : cases) EXPECT_THAT(FileError(yaml), HasSubstr(error)) << yaml;
}

TEST(Options, AnEmptyFileChangesNothing) { EXPECT_EQ(FileError("# nothing yet\n"), ""); }

TEST(Options, DocumentationIsTheTable) { ExpectGenerated("docs/options.md", OptionsMarkdown()); }

}  // namespace
}  // namespace automodeld
