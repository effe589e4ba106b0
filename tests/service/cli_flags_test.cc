// The command line itself: a flag for every field and option, and what a wrong one is told.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <CLI/App.hpp>
#include <filesystem>
#include <fstream>

#include "automodeld/v1/inference.pb.h"
#include "automodeld/v1/models.pb.h"
#include "server/message_flags.h"
#include "server/message_json.h"
#include "server/options.h"
#include "tests/service/cli_runner.h"

namespace automodeld {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using ::testing::HasSubstr;

// "load" with these flags, as a request in JSON; or the error.
template <typename Message>
std::string Parsed(std::vector<std::string> arguments) {
  CLI::App app;
  MessageFlags flags(app, *Message::descriptor());
  std::reverse(arguments.begin(), arguments.end());
  app.parse(std::move(arguments));
  Message message;
  const absl::Status status = flags.Fill(&message);
  return status.ok() ? MessageToJson(message, false) : std::string(status.message());
}

// A value that the field takes.
std::string Sample(const FieldDescriptor& field) {
  if (field.is_map())
    return field.message_type()->map_key()->cpp_type() == FieldDescriptor::CPPTYPE_INT32 ? "1=2" : "a=b";
  if (field.name() == "config_json" || field.name() == "config_overrides") return "{}";
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) return ShortEnumNames(*field.enum_type()).front();
  return field.cpp_type() == FieldDescriptor::CPPTYPE_STRING ? "text" : "1";
}

// Walks `type` and gives each field's flag to the command line on its own: the message must then hold that field.
template <typename Message>
void ExpectAFlagForEachField(const Descriptor& type, const std::vector<const FieldDescriptor*>& above) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    std::vector<const FieldDescriptor*> path = above;
    path.push_back(&field);
    const bool message = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field.is_repeated();
    const bool no_value = message || (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL && !field.is_repeated());
    std::vector<std::string> arguments = {FlagName(path)};
    if (!no_value) arguments.push_back(Sample(field));
    EXPECT_THAT(Parsed<Message>(arguments), HasSubstr("\"" + std::string(field.name()) + "\":"));
    if (message) ExpectAFlagForEachField<Message>(*field.message_type(), path);
  }
}

TEST(Flags, EveryFieldOfLoadModelHasOne) {
  ExpectAFlagForEachField<v1::LoadModelRequest>(*v1::LoadModelRequest::descriptor(), {});
}

TEST(Flags, EverySamplingParameterHasOne) {
  ExpectAFlagForEachField<v1::SamplingParams>(*v1::SamplingParams::descriptor(), {});
}

TEST(Flags, CommandsOfferTheFlagOfEveryField) {
  const std::string load = RunCli({"load", "--help"}).out;
  for (const char* flag : {"--torch-dtype", "--sdpa-method", "--fp8-config.recipe-name", "--fp8-config.filter-fqns",
                           "--engine.kv-cache-bytes", "--no-use-liger-kernel", "--op-overrides", "--check-only"}) {
    EXPECT_THAT(load, HasSubstr(flag));
  }
  const std::string generate = RunCli({"generate", "--help"}).out;
  const Descriptor& sampling = *v1::SamplingParams::descriptor();
  for (int i = 0; i < sampling.field_count(); ++i) EXPECT_THAT(generate, HasSubstr(FlagName({sampling.field(i)})));
  EXPECT_THAT(generate, HasSubstr("--priority"));
}

TEST(Flags, RepeatedMapNestedAndBoolFieldsAreWrittenAsDocumented) {
  using Load = v1::LoadModelRequest;
  EXPECT_EQ(Parsed<Load>({"--sdpa-method", "math", "--sdpa-method", "FLASH_ATTENTION"}),
            R"({"sdpa_method":["SDPA_METHOD_MATH","SDPA_METHOD_FLASH_ATTENTION"]})");
  EXPECT_EQ(Parsed<Load>({"--op-overrides", "rms_norm=mycorp::rms_norm"}),
            R"({"op_overrides":{"rms_norm":"mycorp::rms_norm"}})");
  EXPECT_EQ(Parsed<Load>({"--no-use-liger-kernel", "--use-sdpa-patching=true"}),
            R"({"use_liger_kernel":false,"use_sdpa_patching":true})");
  EXPECT_EQ(Parsed<Load>({"--fp8-config"}), R"({"fp8_config":{}})");
  EXPECT_EQ(Parsed<Load>({"--fp8-config={\"emulate\":true}", "--fp8-config.filter-fqns", "lm_head"}),
            R"({"fp8_config":{"filter_fqns":["lm_head"],"emulate":true}})");
  EXPECT_EQ(Parsed<v1::SamplingParams>({"--presence-penalty", "-1", "--logit-bias", "5=-1.5", "--stop", "-"}),
            R"({"presence_penalty":-1,"logit_bias":{"5":-1.5},"stop":["-"]})");
}

TEST(Flags, WrongValuesNameTheFlagAndWhatWouldBeRight) {
  using Load = v1::LoadModelRequest;
  EXPECT_EQ(Parsed<Load>({"--seed", "-1"}), "--seed: \"-1\" is not a whole number in 0..18446744073709551615");
  EXPECT_THAT(Parsed<Load>({"--sdpa-method", "FAST"}), HasSubstr("\"FAST\" is not one of CUDNN_ATTENTION, "));
  EXPECT_EQ(Parsed<Load>({"--op-overrides", "a"}), "--op-overrides: \"a\" is not KEY=VALUE");
  EXPECT_EQ(Parsed<Load>({"--fp8-config={"}), "--fp8-config: \"{\" is not a JSON object");
  EXPECT_THAT(Parsed<Load>({"--fp8-config={\"recipe\":1}"}), HasSubstr("unknown key"));
  EXPECT_EQ(Parsed<Load>({"--config-json", "/nonexistent"}), "--config-json: the file \"/nonexistent\" cannot be read");
  EXPECT_EQ(Parsed<v1::SamplingParams>({"--temperature", "hot"}), "--temperature: \"hot\" is not a finite number");
}

TEST(Flags, ConfigJsonIsReadFromItsFile) {
  const auto path = std::filesystem::path(::testing::TempDir()) / "flags_config.json";
  std::ofstream(path) << R"({"model_type": "llama"})";
  EXPECT_EQ(Parsed<v1::LoadModelRequest>({"--config-json", path.string()}),
            R"({"config_json":"{\"model_type\": \"llama\"}"})");
  std::filesystem::remove(path);
}

TEST(Cli, ServeHelpShowsAllThreeNamesOfEveryOption) {
  const std::string help = RunCli({"serve", "--help"}).out;
  for (const Option& option : ServeOptions()) {
    EXPECT_THAT(help, HasSubstr(option.flag));
    EXPECT_THAT(help, HasSubstr(option.key.empty() ? "(" + option.environment + ")"
                                                   : "(" + option.environment + ", " + option.key + ")"));
    EXPECT_THAT(help, HasSubstr(option.help));
  }
}

TEST(Cli, WrongCommandLinesExitWithTwoAndNameTheNearest) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "A subcommand is required"},
      {{"sevre"}, "sevre: not expected here; did you mean \"serve\"?"},
      {{"generate", "m", "p", "--temprature", "1"}, "--temprature: not a flag of this command; did you mean"},
      {{"generate", "m", "p", "--temperature", "hot"}, "--temperature: \"hot\" is not a finite number"},
      {{"generate", "m"}, "give PROMPT or --token-ids"},
      {{"generate", "m", "p", "--system", "s"}, "--system: only with --chat"},
      {{"generate", "m", "--token-ids", "1,x"}, "--token-ids: \"x\" is not a whole number"},
      {{"generate", "m", "p", "--timeout", "soon"}, "\"soon\" is not a duration such as 30s or 2m"},
      {{"load"}, "give PATH or --config-json"},
      {{"load", "p", "--path", "q"}, "give PATH or --config-json"},
      {{"serve", "--max-queue-size", "0"}, "--max-queue-size: 0 is outside 1..65536"},
      {{"serve", "--max-queue-siz", "1"}, "did you mean \"--max-queue-size\"?"},
      {{"serve", "--model", "x"}, "--model: \"x\" is not NAME=PATH"},
      {{"check"}, "PATH is required"},
      {{"check", "/", "--torch-dtype", "int3"}, "torch_dtype: \"int3\""},
      {{"bench", "--model", "m", "--concurrency", "0"}, "--concurrency"}};
  for (const auto& [arguments, message] : cases) {
    const CliResult result = RunCli(arguments);
    EXPECT_EQ(result.code, 2) << message;
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

TEST(Cli, HelpAndVersionExitWithZero) {
  EXPECT_EQ(RunCli({"--help"}).code, 0);
  EXPECT_EQ(RunCli({"--version"}).code, 0);
  EXPECT_EQ(RunCli({"serve", "--help"}).code, 0);
  EXPECT_THAT(RunCli({"--version"}).out, ::testing::StartsWith("0."));
}

}  // namespace
}  // namespace automodeld
