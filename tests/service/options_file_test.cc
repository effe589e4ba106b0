// What the YAML file of serve may hold, and what it may not.
#include "server/options_file.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "server/message_json.h"

namespace automodeld {
namespace {

using google::protobuf::FieldDescriptor;
using ::testing::HasSubstr;

std::string Error(const std::string& yaml) { return std::string(ParseOptionsFile(yaml).status().message()); }

// A value that the field takes, in YAML.
std::string Sample(const FieldDescriptor& field) {
  if (field.is_map()) return "{a: b}";
  std::string value = "text";
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) value = ShortEnumNames(*field.enum_type()).front();
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) value = "true";
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) value = "{}";
  if (field.cpp_type() != FieldDescriptor::CPPTYPE_STRING && value == "text") value = "1";
  return field.is_repeated() ? "[" + value + "]" : value;
}

// Gives a model each field of `type` on its own, under `name_of(field)`; the request must then hold that field.
// `before` and `after` are what stands around it in the model's map.
void ExpectEachField(const google::protobuf::Descriptor& type, const std::string& before, const std::string& after,
                     const std::function<std::string(const FieldDescriptor&)>& name_of) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.name() == "check_only") continue;
    const std::string item = before + name_of(field) + ": ";
    const auto file = ParseOptionsFile("models: [" + item + Sample(field) + after + "]");
    ASSERT_TRUE(file.ok()) << item << file.status();
    EXPECT_THAT(MessageToJson(file->models.at(0), false), HasSubstr("\"" + std::string(field.name()) + "\":"));
    const bool nested = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field.is_repeated();
    if (nested) ExpectEachField(*field.message_type(), item + "{", after + "}", name_of);
  }
}

TEST(OptionsFile, ModelsTakeEveryFieldByBothOfItsNames) {
  const auto& type = *v1::LoadModelRequest::descriptor();
  ExpectEachField(type, "{", "}", [](const FieldDescriptor& field) { return std::string(field.name()); });
  ExpectEachField(type, "{", "}", [](const FieldDescriptor& field) { return std::string(field.json_name()); });
}

TEST(OptionsFile, ModelsAreNotOnlyChecked) {
  EXPECT_EQ(Error("models: [{path: /a}, {path: /b, check_only: true}]"),
            "models[1].check_only: serve loads its models; `automodeld check` only tries one");
  EXPECT_EQ(Error("models: [{path: /a, check_only: false}]"), "");
}

TEST(OptionsFile, AliasesStandForWhatTheyName) {
  const auto file = ParseOptionsFile("models: [&a {path: /a, engine: &e {max_num_seqs: 3}}, {path: /b, engine: *e}]");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->models.at(1).engine().max_num_seqs(), 3);
}

TEST(OptionsFile, AnAliasWithinItselfIsAnError) {
  EXPECT_THAT(Error("listen: &a [*a]"), HasSubstr("deeper than 32 levels"));
  EXPECT_THAT(Error("models: &a {path: *a}"), HasSubstr("deeper than 32 levels"));
  EXPECT_THAT(Error("listen: " + std::string(100'000, '[')), HasSubstr("line 1: "));
}

TEST(OptionsFile, AliasesThatStandForBillionsOfValuesAreAnError) {
  std::string yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    yaml += fmt::format("a{}: &a{} [{}", i, i, before);
    for (int j = 0; j < 8; ++j) yaml += ", " + before;
    yaml += "]\n";
  }
  EXPECT_THAT(Error(yaml), HasSubstr("more than 16777216 bytes, with aliases written out"));
  const std::string long_text(1 << 20, 'x');
  std::string texts = "a: &a " + long_text + "\nb: [*a";
  for (int i = 0; i < 20; ++i) texts += ", *a";
  EXPECT_THAT(Error(texts + "]\n"), HasSubstr("more than 16777216 bytes, with aliases written out"));
}

}  // namespace
}  // namespace automodeld
