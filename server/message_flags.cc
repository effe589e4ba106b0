#include "server/message_flags.h"

#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/status.h"
#include "server/field_help.h"
#include "server/message_json.h"

namespace automodeld {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using nlohmann::json;
using Path = std::vector<const FieldDescriptor*>;

std::string Dotted(const Path& path) {
  std::string name;
  for (const FieldDescriptor* field : path) name += (name.empty() ? "" : ".") + std::string(field->name());
  return name;
}

// The name, and a bool's twin.
std::string FlagNames(const Path& path, bool negatable) {
  const std::string name = FlagName(path);
  return negatable ? name + ",!--no-" + name.substr(2) : name;
}

bool IsMessage(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field.is_repeated();
}

bool IsSwitch(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL && !field.is_repeated();
}

bool HoldsJson(const FieldDescriptor& field) {
  return field.name() == "config_json" || field.name() == "config_overrides";
}

std::string TypeName(const FieldDescriptor& field) {
  if (field.is_map()) return "KEY=VALUE";
  if (HoldsJson(field)) return "FILE|JSON";
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_ENUM:
      return absl::StrJoin(ShortEnumNames(*field.enum_type()), "|");
    case FieldDescriptor::CPPTYPE_STRING:
      return "TEXT";
    default:
      return "NUMBER";
  }
}

absl::StatusOr<json> FromPairs(const std::string& name, const std::vector<std::string>& values) {
  json result = json::object();
  for (const std::string& value : values) {
    const size_t equals = value.find('=');
    if (equals == std::string::npos) {
      return absl::InvalidArgumentError(fmt::format("{}: \"{}\" is not KEY=VALUE", name, value));
    }
    result[value.substr(0, equals)] = value.substr(equals + 1);
  }
  return result;
}

// "true" is what the bare flag gives.
absl::StatusOr<json> FromObject(const std::string& name, const std::string& value) {
  if (value == "true") return json::object();
  json result = json::parse(value, nullptr, false);
  if (result.is_object()) return result;
  return absl::InvalidArgumentError(fmt::format("{}: \"{}\" is not a JSON object", name, value));
}

absl::StatusOr<json> FromTextOrFile(const std::string& name, const std::string& value) {
  if (!value.empty() && value.front() == '{') return json(value);
  std::ifstream stream(value, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (stream.is_open() && !stream.bad()) return json(text);
  return absl::InvalidArgumentError(fmt::format("{}: the file \"{}\" cannot be read", name, value));
}

absl::StatusOr<json> FromValues(const std::string& name, const FieldDescriptor& field,
                                const std::vector<std::string>& values) {
  if (field.is_map()) return FromPairs(name, values);
  if (field.is_repeated()) return json(values);
  if (IsMessage(field)) return FromObject(name, values.back());
  if (HoldsJson(field)) return FromTextOrFile(name, values.back());
  return json(values.back());
}

// {"fp8_config": {"emulate": value}}
json Nested(const Path& path, json value) {
  for (auto field = path.rbegin(); field != path.rend(); ++field) value = json{{std::string((*field)->name()), value}};
  return value;
}

}  // namespace

std::string FlagName(const Path& path) { return "--" + absl::StrReplaceAll(Dotted(path), {{"_", "-"}}); }

MessageFlags::MessageFlags(CLI::App& command, const Descriptor& type, const std::set<std::string>& skip)
    : command_(command) {
  for (int i = 0; i < type.field_count(); ++i) {
    if (skip.count(std::string(type.field(i)->name())) == 0) Add({type.field(i)});
  }
}

void MessageFlags::AddAll(const Descriptor& type, const Path& above) {
  for (int i = 0; i < type.field_count(); ++i) {
    Path path = above;
    path.push_back(type.field(i));
    Add(std::move(path));
  }
}

void MessageFlags::Add(Path path) {
  const FieldDescriptor& field = *path.back();
  const bool no_value = IsSwitch(field) || IsMessage(field);
  const std::string names = FlagNames(path, IsSwitch(field));
  CLI::Option* option = no_value ? command_.add_flag(names) : command_.add_option(names);
  option->description(FieldHelp(field));
  option->multi_option_policy(field.is_repeated() ? CLI::MultiOptionPolicy::TakeAll : CLI::MultiOptionPolicy::TakeLast);
  if (!no_value) option->expected(1)->allow_extra_args(false)->type_name(TypeName(field));
  flags_.push_back({path, option});
  if (IsMessage(field)) AddAll(*field.message_type(), path);
}

absl::Status MessageFlags::Fill(google::protobuf::Message* message) const {
  for (const Flag& flag : flags_) {
    if (flag.option->count() == 0) continue;
    ASSIGN_OR_RETURN(json value, FromValues(FlagName(flag.path), *flag.path.back(), flag.option->results()));
    RETURN_IF_ERROR(Prefixed("--", JsonToMessage(Nested(flag.path, std::move(value)), "", message)));
  }
  return absl::OkStatus();
}

}  // namespace automodeld
