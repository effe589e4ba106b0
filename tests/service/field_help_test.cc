#include "server/field_help.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_join.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <re2/re2.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "tests/service/generated_files.h"

namespace automodeld {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

using Comments = std::map<std::string, std::string>;  // by full field name

// Enough of the language for files that write one thing a line.
void ReadComments(const std::string& file, Comments& comments) {
  static const re2::RE2 comment("\\s*// ?(.*)");
  static const re2::RE2 message("\\s*message (\\w+) \\{");
  static const re2::RE2 field("\\s*(?:optional |repeated )?[\\w.]+(?:<.*>)? (\\w+) = \\d+;.*");
  std::ifstream stream(AUTOMODELD_SOURCE_DIR "/proto/automodeld/v1/" + file);
  std::string type;
  std::vector<std::string> text;
  for (std::string line, match; std::getline(stream, line);) {
    if (re2::RE2::FullMatch(line, comment, &match)) {
      text.push_back(match);
      continue;
    }
    if (re2::RE2::FullMatch(line, message, &match)) type = match;
    if (re2::RE2::FullMatch(line, field, &match))
      comments[fmt::format("automodeld.v1.{}.{}", type, match)] = absl::StrJoin(text, " ");
    text.clear();
  }
}

const char kHead[] = R"(// Generated from proto/automodeld/v1/*.proto; see field_help.h.
#include "server/field_help.h"

#include <algorithm>

#include "automodeld/v1/inference.pb.h"
#include "automodeld/v1/models.pb.h"

namespace automodeld {
namespace {

struct Row {
  const char* field;
  const char* help;
};

// clang-format off
const Row kRows[] = {
)";

const char kTail[] = R"(};
// clang-format on

}  // namespace

std::string FieldHelp(const google::protobuf::FieldDescriptor& field) {
  const auto* row = std::find_if(std::begin(kRows), std::end(kRows),
                                 [&](const Row& candidate) { return field.full_name() == candidate.field; });
  return row == std::end(kRows) ? "" : row->help;
}

std::vector<const google::protobuf::Descriptor*> MessagesWithHelp() {
  return {v1::LoadModelRequest::descriptor(), v1::Fp8Config::descriptor(),      v1::EngineConfig::descriptor(),
          v1::GenerateRequest::descriptor(),  v1::SamplingParams::descriptor(), v1::EmbedRequest::descriptor()};
}

}  // namespace automodeld
)";

TEST(FieldHelp, IsWhatTheProtoFilesSay) {
  Comments comments;
  ReadComments("models.proto", comments);
  ReadComments("inference.proto", comments);
  std::string rows;
  for (const Descriptor* type : MessagesWithHelp()) {
    for (int i = 0; i < type->field_count(); ++i) {
      const FieldDescriptor& field = *type->field(i);
      rows += fmt::format("    {{\"{}\",\n     \"{}\"}},\n", std::string(field.full_name()),
                          absl::CEscape(comments[std::string(field.full_name())]));
    }
  }
  ExpectGenerated("server/field_help.cc", kHead + rows + kTail);
}

TEST(FieldHelp, NoFieldIsWithoutHelp) {
  for (const Descriptor* type : MessagesWithHelp()) {
    for (int i = 0; i < type->field_count(); ++i) EXPECT_NE(FieldHelp(*type->field(i)), "") << type->field(i)->name();
  }
}

}  // namespace
}  // namespace automodeld
