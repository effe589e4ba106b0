#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <thread>

#include "core/text/text.h"
#include "tests/text/checkpoint_folder.h"
#include "tests/text/tokenizer_json.h"

namespace automodeld {
namespace {

using testing::HasSubstr;

constexpr char kHello[] = R"([{"role": "user", "content": "Hello"}])";

std::shared_ptr<const Tokenizer> LoadWithConfig(const Json& config) {
  return CheckpointFolder()
      .Write("tokenizer.json", ByteLevelTokenizer().dump())
      .Write("tokenizer_config.json", config.dump())
      .Load();
}

std::shared_ptr<const Tokenizer> LoadWithTemplate(const std::string& source) {
  return LoadWithConfig({{"bos_token", "<s>"}, {"eos_token", {{"content", "</s>"}}}, {"chat_template", source}});
}

std::string Render(const std::string& source, const ChatOptions& options = {}, const std::string& messages = kHello) {
  const auto prompt = LoadWithTemplate(source)->RenderChat(messages, options);
  return prompt.ok() ? *prompt : prompt.status().ToString();
}

absl::Status Failure(const std::string& source, const ChatOptions& options = {}, const std::string& messages = kHello) {
  return LoadWithTemplate(source)->RenderChat(messages, options).status();
}

MATCHER_P2(IsFailure, code, message, "") {
  return arg.code() == code &&
         testing::ExplainMatchResult(HasSubstr(message), std::string(arg.message()), result_listener);
}

TEST(ChatTemplate, SeesMessagesToolsAndSpecialTokens) {
  EXPECT_EQ(Render("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"), "<s>Hello</s>");
  EXPECT_EQ(Render("{{ tools is none }} {{ documents is none }} {{ pad_token is defined }}"), "True True False");
  EXPECT_EQ(Render("{{ tools[0].name }}", {.tools_json = R"([{"name": "f"}])"}), "f");
  EXPECT_EQ(Render("{{ add_generation_prompt }}", {.add_generation_prompt = false}), "False");
}

TEST(ChatTemplate, SeesFurtherVariables) {
  EXPECT_EQ(Render("{{ enable_thinking }} {{ documents[0] }} {{ eos_token }}",
                   {.extra_json = R"({"enable_thinking": false, "documents": ["d"], "eos_token": "!"})"}),
            "False d !");
}

TEST(ChatTemplate, KeepsTheOrderOfKeys) {
  EXPECT_EQ(Render("{{ tools | tojson }}", {.tools_json = R"([{"z": 1, "a": {"y": "<é>", "b": null}}])"}),
            R"([{"z": 1, "a": {"y": "<é>", "b": null}}])");
}

TEST(ChatTemplate, LineEndsOfTheFileAreNewlines) {
  EXPECT_EQ(Render("a\r\n{% if true %}\r\nb\r{% endif %}\r\nc"), "a\nb\nc");
}

TEST(ChatTemplate, TellsTheTime) {
  const std::time_t before = std::time(nullptr);
  const std::string now = Render("{{ strftime_now('%s') }}");
  EXPECT_GE(std::stoll(now), before);
  EXPECT_LE(std::stoll(now), std::time(nullptr));
  EXPECT_EQ(Render("{{ strftime_now('') }}|{{ strftime_now('%%é') }}"), "|%é");
  EXPECT_EQ(Failure("{{ strftime_now('" + std::string(2000, '%') + "') }}").code(), absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplate, IsFoundWhereCheckpointsKeepIt) {
  const Json both = {{"chat_template", "from config"}};
  const auto render = [](CheckpointFolder& folder, const ChatOptions& options = {}) {
    const auto tokenizer = folder.Write("tokenizer.json", ByteLevelTokenizer().dump()).Load();
    return *tokenizer->RenderChat(kHello, options);
  };
  CheckpointFolder config, jinja, processor, list, further;
  EXPECT_EQ(render(config.Write("tokenizer_config.json", both.dump())), "from config");
  EXPECT_EQ(render(jinja.Write("tokenizer_config.json", both.dump()).Write("chat_template.jinja", "from jinja")),
            "from jinja");
  EXPECT_EQ(render(processor.Write("chat_template.json", R"({"chat_template": "from json"})")), "from json");
  list.Write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "plain"},
                                                            {"name": "tool_use", "template": "with tools"}]})");
  EXPECT_EQ(render(list), "plain");
  EXPECT_EQ(render(list, {.tools_json = "[]"}), "with tools");
  further.Write("chat_template.jinja", "plain").Write("additional_chat_templates/tool_use.jinja", "with tools");
  EXPECT_EQ(render(further, {.tools_json = "[]"}), "with tools");
}

TEST(ChatTemplate, AbsenceIsAFailedPrecondition) {
  const auto tokenizer = LoadWithConfig({{"bos_token", "<s>"}});
  EXPECT_FALSE(tokenizer->has_chat_template());
  EXPECT_THAT(tokenizer->RenderChat(kHello, {}).status(),
              IsFailure(absl::StatusCode::kFailedPrecondition, "no chat template"));
}

TEST(ChatTemplate, TakesToolsIfItReadsThem) {
  for (const std::string source :
       {"{{ tools }}", "{%- if tools %}x{% endif %}", "{% for t in tools or [] %}{{ t }}{% endfor %}",
        "{% set tools = tools or [] %}{{ tools | tojson }}",
        "{% macro m(tools) %}{{ tools }}{% endmacro %}{{ m(tools) }}",
        "{% macro m() %}{{ tools | length }}{% endmacro %}{{ m() }}",
        "{% generation %}{{ tools }}{% endgeneration %}"}) {
    EXPECT_TRUE(LoadWithTemplate(source)->chat_takes_tools()) << source;
  }
  for (const std::string source :
       {"", "tools", "{# {{ tools }} #}", "{{ 'tools' }}", "{% raw %}{{ tools }}{% endraw %}",
        "{{ messages[0].tools }}", "{{ tools_in_user_message }}",
        "{% for tools in messages %}{{ tools }}{% endfor %}"}) {
    EXPECT_FALSE(LoadWithTemplate(source)->chat_takes_tools()) << source;
  }
}

TEST(ChatTemplate, TakesToolsIsToldOfTheOneThatIsForTools) {
  CheckpointFolder reads, ignores;
  reads.Write("tokenizer.json", ByteLevelTokenizer().dump()).Write("chat_template.jinja", "plain");
  EXPECT_FALSE(reads.Load()->chat_takes_tools());
  EXPECT_TRUE(reads.Write("additional_chat_templates/tool_use.jinja", "{{ tools }}").Load()->chat_takes_tools());
  ignores.Write("tokenizer.json", ByteLevelTokenizer().dump()).Write("chat_template.jinja", "{{ tools }}");
  EXPECT_FALSE(ignores.Write("additional_chat_templates/tool_use.jinja", "plain").Load()->chat_takes_tools());
}

TEST(ChatTemplate, TakesToolsIsTrueWhereRenderingHasAnErrorToTell) {
  EXPECT_TRUE(LoadWithConfig({{"bos_token", "<s>"}})->chat_takes_tools());
  EXPECT_TRUE(LoadWithTemplate("{% if %}")->chat_takes_tools());
}

TEST(ChatTemplate, TakesToolsOfRealModels) {
  const std::pair<std::string, bool> templates[] = {{"chatml", false}, {"gemma", false},  {"llama3", true},
                                                    {"mistral", true}, {"qwen2_5", true}, {"qwen3", true}};
  for (const auto& [name, takes_tools] : templates) {
    std::ifstream file(AUTOMODELD_SOURCE_DIR "/tests/text/templates/" + name + ".jinja");
    const std::string source{std::istreambuf_iterator<char>(file), {}};
    EXPECT_EQ(LoadWithTemplate(source)->chat_takes_tools(), takes_tools) << name;
  }
}

TEST(ChatTemplate, WhatItRaisesIsTheMessage) {
  EXPECT_THAT(Failure("{% if true %}{{ raise_exception('Roles must alternate: ' + messages[0].role) }}{% endif %}"),
              IsFailure(absl::StatusCode::kInvalidArgument, "chat template: Roles must alternate: user"));
  EXPECT_THAT(Failure("{% macro m() %}{{ raise_exception('inside') }}{% endmacro %}{{ m() }}"),
              IsFailure(absl::StatusCode::kInvalidArgument, "chat template: inside"));
  const absl::Status status = Failure("{{ raise_exception('é' * 100000) }}");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_LT(status.message().size(), 1100U);
}

TEST(ChatTemplate, MalformedOnesLoadAndSayWhyWhenUsed) {
  for (const std::string source :
       {"{% if %}", "{{ x", "{% for m in messages %}", "{% endif %}", "{{ 'a' | no_such_filter( }}", "{% unknown %}",
        "{{ \"unclosed }}", "{%- set x = %}", "{{ a.b.c. }}"}) {
    const auto tokenizer = LoadWithTemplate(source);
    EXPECT_TRUE(tokenizer->has_chat_template());
    EXPECT_THAT(tokenizer->RenderChat(kHello, {}).status(),
                IsFailure(absl::StatusCode::kFailedPrecondition, "does not parse: line 1: "))
        << source;
  }
}

// The engine walks an expression's tree by recursion, and bounds only how deep brackets are.
TEST(ChatTemplateLimits, ExpressionsAsLongAsATemplateMayBeEndInAPromptOrAnError) {
  for (const std::string link : {".b", "|trim", "[0]", "()", " is defined", " if x else a"}) {
    std::string chain = "{{ a";
    while (chain.size() < (256 << 10) - 16) chain += link;
    (void)LoadWithTemplate(chain + " }}")->RenderChat(kHello, {});
  }
}

TEST(ChatTemplate, FailuresOfItsCodeAreInvalidArguments) {
  for (const std::string source :
       {"{{ messages[0].a.b.c }}", "{{ 'a' + 1 }}", "{{ no_such_function() }}", "{{ 'a' | no_filter }}",
        "{{ 'a'.no_method() }}", "{{ messages[0]() }}", "{{ x | tojson }}", "{% include 'other' %}",
        "{% extends 'other' %}", "{{ [1] * 'a' }}", "{{ range(10 ** 9) }}", "{{ 'a' * (10 ** 12) }}"}) {
    EXPECT_THAT(Failure(source), IsFailure(absl::StatusCode::kInvalidArgument, "chat template: ")) << source;
  }
}

TEST(ChatTemplate, MalformedInputsAreNamed) {
  const auto tokenizer = LoadWithTemplate("x");
  const auto render = [&](const std::string& messages, const ChatOptions& options = {}) {
    return tokenizer->RenderChat(messages, options).status();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(render(""), IsFailure(invalid, "messages: "));
  EXPECT_THAT(render("[{]"), IsFailure(invalid, "messages: "));
  EXPECT_THAT(render("{}"), IsFailure(invalid, "messages: expected a JSON array of objects"));
  EXPECT_THAT(render("[1]"), IsFailure(invalid, "messages: expected a JSON array of objects"));
  EXPECT_THAT(render("[]"), IsFailure(invalid, "messages: empty"));
  EXPECT_THAT(render("[{\"role\": \"\xFF\"}]"), IsFailure(invalid, "messages: invalid UTF-8 at byte 11"));
  EXPECT_THAT(render(std::string(100000, '[')), IsFailure(invalid, "messages: "));
  EXPECT_THAT(render(kHello, {.tools_json = "{}"}), IsFailure(invalid, "tools: expected a JSON array"));
  EXPECT_THAT(render(kHello, {.extra_json = "[]"}), IsFailure(invalid, "extra: expected a JSON object"));
  EXPECT_THAT(render(kHello, {.extra_json = R"({"messages": 1})"}), IsFailure(invalid, "extra: messages"));
  EXPECT_THAT(render(kHello, {.tools_json = std::string(2 << 20, ' ')}), IsFailure(invalid, "are more than 1048576"));
  EXPECT_THAT(render(std::string((8 << 20) + 1, ' ')), IsFailure(invalid, "are more than 8388608"));
}

TEST(ChatTemplateLimits, LoopsThatDoNotEndRunOutOfSteps) {
  for (const std::string source :
       {"{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
        "{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}"}) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_FALSE(Failure(source).ok());
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(15));
  }
  EXPECT_THAT(Failure("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
              IsFailure(absl::StatusCode::kResourceExhausted, "more than 2000000 steps"));
}

TEST(ChatTemplateLimits, TenThousandMessagesAreWithinTheSteps) {
  Json messages = Json::array();
  for (int i = 0; i < 10000; ++i) messages.push_back({{"role", i % 2 ? "assistant" : "user"}, {"content", "word"}});
  std::ifstream file(AUTOMODELD_SOURCE_DIR "/tests/text/templates/qwen3.jinja");
  const std::string source{std::istreambuf_iterator<char>(file), {}};
  EXPECT_THAT(Render(source, {}, messages.dump()), testing::EndsWith("<|im_start|>assistant\n"));
}

TEST(ChatTemplateLimits, RecursionEndsInAnError) {
  EXPECT_EQ(Failure("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}").code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Failure("{{ " + std::string(100000, '(') + " }}").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Failure("{{ " + std::string(100000, '[') + " }}").code(), absl::StatusCode::kFailedPrecondition);
}

TEST(ChatTemplateLimits, ValuesNestedByALoopEndInAnErrorWhateverIsDoneWithThem) {
  const std::string nest =
      "{% set ns = namespace(x=[]) %}{% for a in range(4) %}{% for b in range(60000) %}{% set ns.x = [ns.x] %}"
      "{% endfor %}{% endfor %}";
  EXPECT_EQ(Render(nest + "done"), "done");
  EXPECT_EQ(Failure(nest + "{{ ns.x }}").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Failure(nest + "{{ ns.x | tojson }}").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Render(nest + "{{ (ns.x ~ '') | length > 0 }}"), "True");
  EXPECT_EQ(Render(nest + "{{ ns.x == [ns.x] }}"), "False");
}

TEST(ChatTemplateLimits, PromptsOverFourMebibytesAreRefused) {
  const std::string megabyte = "{{ 'a' * 1000000 }}";
  EXPECT_EQ(Render(megabyte + megabyte + megabyte + megabyte).size(), 4000000U);
  EXPECT_THAT(Failure(megabyte + megabyte + megabyte + megabyte + megabyte),
              IsFailure(absl::StatusCode::kInvalidArgument, "longer than 4194304 bytes"));
}

// Doubling a string takes few steps and, if it were let, all memory.
TEST(ChatTemplateLimits, MemoryIsBoundedAndARepeatedOffenderIsNotTriedAgain) {
  const std::string doubling =
      "{% set ns = namespace(s='abcdefgh' * 1000) %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}";
  const auto tokenizer = LoadWithTemplate(doubling);
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(tokenizer->RenderChat(kHello, {}).status(),
                IsFailure(absl::StatusCode::kResourceExhausted, "more than 536870912 bytes of memory"));
  }
  EXPECT_THAT(tokenizer->RenderChat(kHello, {}).status(),
              IsFailure(absl::StatusCode::kResourceExhausted, "passed its limits before"));
  EXPECT_TRUE(tokenizer->Encode("hello", false).ok());
  EXPECT_EQ(Render("another model's template"), "another model's template");
}

TEST(ChatTemplate, ManyThreadsRenderAtOnce) {
  const auto tokenizer = LoadWithTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}");
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      const std::string messages = R"([{"role": "user", "content": ")" + std::to_string(i) + R"("}])";
      for (int round = 0; round < 50; ++round) {
        EXPECT_EQ(*tokenizer->RenderChat(messages, {}), "user: " + std::to_string(i) + ";");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace automodeld
