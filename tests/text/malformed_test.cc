// Broken files: whatever is in them, loading and using them ends in a value or a Status.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "core/text/text.h"
#include "tests/text/checkpoint_folder.h"
#include "tests/text/tokenizer_json.h"

namespace automodeld {
namespace {

// Uses every function; what they answer does not matter.
void Use(const std::shared_ptr<const Tokenizer>& tokenizer) {
  for (const std::string text :
       {"", "hello world", "a 🙂 don't </s>\n\n  x", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}) {
    (void)tokenizer->Encode(text, false);
    (void)tokenizer->Encode(text, true);
  }
  const std::vector<int32_t> ids = {0, 1, 2, 3, 104, 200, 0, 255, 128};
  (void)tokenizer->Decode(ids, true);
  DecodeStream stream(tokenizer, false);
  for (const int32_t id : ids) (void)stream.Push(id);
  (void)stream.Flush();
  (void)tokenizer->RenderChat(R"([{"role": "user", "content": "hi"}])", {.tools_json = R"([{"a": [1]}])"});
}

// Returns whether it loaded.
bool TryToUse(const CheckpointFolder& folder) {
  const auto tokenizer = folder.TryLoad();
  if (tokenizer.ok()) Use(*tokenizer);
  EXPECT_TRUE(tokenizer.ok() || tokenizer.status().code() == absl::StatusCode::kInvalidArgument) << tokenizer.status();
  EXPECT_LT(tokenizer.status().message().size(), 1100U);
  return tokenizer.ok();
}

struct Kind {
  const char* name;
  Json (*tokenizer)();
  friend void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }
};

class MalformedTokenizer : public testing::TestWithParam<Kind> {};

TEST_P(MalformedTokenizer, TruncatedAnywhereIsInvalidArgument) {
  const std::string whole = GetParam().tokenizer().dump();
  CheckpointFolder folder;
  for (size_t size = 0; size < whole.size(); size += 1 + whole.size() / 150) {
    EXPECT_EQ(folder.Write("tokenizer.json", whole.substr(0, size)).TryLoad().status().code(),
              absl::StatusCode::kInvalidArgument)
        << size;
  }
}

TEST_P(MalformedTokenizer, FlippedBitsAnywhereAreHarmless) {
  const std::string whole = GetParam().tokenizer().dump();
  std::mt19937 random(5);
  CheckpointFolder folder;
  int loaded = 0;
  for (int round = 0; round < 300; ++round) {
    std::string broken = whole;
    for (int flips = 1 + round % 3; flips > 0; --flips) {
      broken[random() % broken.size()] ^= static_cast<char>(1 << (random() % 8));
    }
    loaded += TryToUse(folder.Write("tokenizer.json", broken)) ? 1 : 0;
  }
  EXPECT_GT(loaded, 0);
  EXPECT_LT(loaded, 300);
}

// Every place of the file but most of the vocabulary.
std::vector<Json::json_pointer> Places(const Json& tokenizer) {
  std::vector<Json::json_pointer> places;
  std::map<std::string, int> per_parent;
  const Json flat = tokenizer.flatten();
  for (const auto& [path, value] : flat.items()) {
    Json::json_pointer place(path);
    if (++per_parent[place.parent_pointer().to_string()] > 8) continue;
    for (; !place.empty(); place = place.parent_pointer()) {
      if (std::find(places.begin(), places.end(), place) == places.end()) places.push_back(place);
    }
  }
  return places;
}

TEST_P(MalformedTokenizer, AnyValueInAnyPlaceIsHarmless) {
  const Json whole = GetParam().tokenizer();
  CheckpointFolder folder;
  const std::vector<Json> values = {nullptr,       true,          -1, 0, 4294967295U, 1e300, "", "(", "\u0000\uFFFF",
                                    Json::array(), Json::object()};
  int loaded = 0;
  for (const Json::json_pointer& place : Places(whole)) {
    for (const Json& value : values) {
      SCOPED_TRACE(place.to_string() + " = " + value.dump());
      Json broken = whole;
      broken[place] = value;
      loaded += TryToUse(folder.Write("tokenizer.json", broken.dump())) ? 1 : 0;
    }
  }
  EXPECT_GT(loaded, 0);
}

INSTANTIATE_TEST_SUITE_P(Kinds, MalformedTokenizer,
                         testing::Values(Kind{"ByteLevel", ByteLevelTokenizer},
                                         Kind{"ByteFallback", ByteFallbackTokenizer}, Kind{"Unigram", UnigramTokenizer},
                                         Kind{"WordPiece", WordPieceTokenizer}),
                         [](const auto& kind) { return kind.param.name; });

TEST(MalformedConfig, FlippedBitsAnywhereAreHarmless) {
  const std::string config = R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false},
      "additional_special_tokens": ["<|im_end|>", {"content": "<tool_call>"}], "extra_special_tokens": {"x": "<s>"},
      "model_max_length": 4096, "added_tokens_decoder": {}, "chat_template": [
        {"name": "default", "template": "{% for m in messages %}{{ m.role + ': ' + m.content | trim }}{% endfor %}"},
        {"name": "tool_use", "template": "{{ tools | tojson(indent=2) }}{% set ns = namespace(a=1) %}{{ ns.a }}"}]})";
  std::mt19937 random(6);
  CheckpointFolder folder;
  folder.Write("tokenizer.json", ByteLevelTokenizer().dump());
  int loaded = 0;
  for (int round = 0; round < 500; ++round) {
    std::string broken = config;
    broken[random() % broken.size()] ^= static_cast<char>(1 << (random() % 8));
    const char* name = round % 2 == 0 ? "tokenizer_config.json" : "special_tokens_map.json";
    loaded += TryToUse(folder.Write(name, broken)) ? 1 : 0;
    folder.Write(name, "{}");
  }
  EXPECT_GT(loaded, 0);
  EXPECT_LT(loaded, 500);
}

TEST(MalformedConfig, ErrorsNameTheFile) {
  for (const std::string name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                 "chat_template.json", "chat_template.jinja"}) {
    CheckpointFolder folder;
    folder.Write("tokenizer.json", ByteLevelTokenizer().dump());
    const absl::Status status = folder.Write(name, "{\"a\": \"\xFF\"").TryLoad().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(std::string(status.message()), name + ": invalid UTF-8 at byte 7");
  }
}

// Only a writer would wake a reader that waits for a pipe, and no cancel.
TEST(MalformedConfig, WhatIsNoPlainFileIsRefusedAtOnce) {
  for (const std::string name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                 "chat_template.json", "chat_template.jinja"}) {
    CheckpointFolder pipe, folder;
    if (name != "tokenizer.json") pipe.Write("tokenizer.json", ByteLevelTokenizer().dump());
    for (const absl::Status& status :
         {pipe.MakePipe(name).TryLoad().status(), folder.MakeFolder(name).TryLoad().status()}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << name;
      EXPECT_EQ(std::string(status.message()), name + ": not a plain file");
    }
  }
}

TEST(MalformedConfig, PipesAmongAdditionalTemplatesAreRefusedAtOnce) {
  CheckpointFolder inside, instead;
  inside.Write("tokenizer.json", ByteLevelTokenizer().dump()).MakeFolder("additional_chat_templates");
  const absl::Status status = inside.MakePipe("additional_chat_templates/tool_use.jinja").TryLoad().status();
  EXPECT_EQ(std::string(status.message()), "tool_use.jinja: not a plain file");
  instead.Write("tokenizer.json", ByteLevelTokenizer().dump()).MakePipe("additional_chat_templates");
  EXPECT_TRUE(instead.TryLoad().ok());
}

TEST(MalformedConfig, FilesLargerThanTheirLimitAreRefused) {
  const std::pair<std::string, uint64_t> limits[] = {
      {"tokenizer.json", 256 << 20}, {"tokenizer_config.json", 32 << 20}, {"chat_template.jinja", 256 << 10}};
  for (const auto& [name, limit] : limits) {
    const absl::Status status = CheckpointFolder().MakeSparse(name, limit + 1).TryLoad().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(std::string(status.message()), name + ": more than " + std::to_string(limit) + " bytes");
  }
}

TEST(MalformedConfig, ChatTemplatesOfAnotherFormAreRefused) {
  CheckpointFolder folder;
  folder.Write("tokenizer.json", ByteLevelTokenizer().dump());
  for (const std::string form : {"1", "[1]", R"([{"name": "default"}])", R"({"default": 1})", "true"}) {
    const absl::Status status =
        folder.Write("tokenizer_config.json", "{\"chat_template\": " + form + "}").TryLoad().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << form;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("chat_template"));
  }
}

TEST(MalformedTemplate, FlippedBitsAnywhereAreHarmless) {
  CheckpointFolder folder;
  folder.Write("tokenizer.json", ByteLevelTokenizer().dump());
  std::mt19937 random(7);
  for (const std::string name : {"llama3", "qwen3", "mistral", "tool_types", "control"}) {
    std::ifstream file(AUTOMODELD_SOURCE_DIR "/tests/text/templates/" + name + ".jinja");
    const std::string whole{std::istreambuf_iterator<char>(file), {}};
    for (int round = 0; round < 100; ++round) {
      std::string broken = whole.substr(0, round % 2 == 0 ? whole.size() : random() % whole.size());
      if (!broken.empty()) broken[random() % broken.size()] ^= static_cast<char>(1 << (random() % 7));
      TryToUse(folder.Write("chat_template.jinja", broken));
    }
  }
}

}  // namespace
}  // namespace automodeld
