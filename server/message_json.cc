#include "server/message_json.h"

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_join.h>
#include <google/protobuf/util/json_util.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/status.h"
#include "server/nearest.h"

namespace automodeld {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using nlohmann::json;

absl::StatusOr<json> ToMessage(const json& value, const std::string& where, const Descriptor& type);

// SdpaMethod -> SDPA_METHOD_
std::string Prefix(const EnumDescriptor& type) {
  std::string prefix;
  for (const char c : std::string(type.name())) {
    if (absl::ascii_isupper(static_cast<unsigned char>(c)) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(static_cast<unsigned char>(c));
  }
  return prefix + "_";
}

// What someone wrote, with or without quotes.
std::string Text(const json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

absl::StatusOr<json> ToEnum(const json& value, const std::string& where, const EnumDescriptor& type) {
  const std::string name = absl::AsciiStrToUpper(Text(value));
  for (const std::string& candidate : {name, Prefix(type) + name}) {
    if (type.FindValueByName(candidate) != nullptr) return json(candidate);
  }
  return absl::InvalidArgumentError(
      fmt::format("{}: {} is not one of {}", where, value.dump(), absl::StrJoin(ShortEnumNames(type), ", ")));
}

absl::StatusOr<json> ToBool(const json& value, const std::string& where) {
  const std::string text = absl::AsciiStrToLower(Text(value));
  if (text == "true" || text == "false") return json(text == "true");
  return absl::InvalidArgumentError(fmt::format("{}: {} is not one of true, false", where, value.dump()));
}

template <typename T>
absl::StatusOr<json> ToWhole(const json& value, const std::string& where) {
  T number = 0;
  if (absl::SimpleAtoi(Text(value), &number)) return json(number);
  using Limits = std::numeric_limits<T>;
  return absl::InvalidArgumentError(
      fmt::format("{}: {} is not a whole number in {}..{}", where, value.dump(), Limits::min(), Limits::max()));
}

absl::StatusOr<json> ToReal(const json& value, const std::string& where) {
  double number = 0;
  if (absl::SimpleAtod(Text(value), &number) && std::isfinite(number)) return json(number);
  return absl::InvalidArgumentError(fmt::format("{}: {} is not a finite number", where, value.dump()));
}

absl::StatusOr<json> ToText(const json& value, const std::string& where) {
  if (value.is_string()) return value;
  return absl::InvalidArgumentError(fmt::format("{}: {} is not a text", where, value.dump()));
}

absl::StatusOr<json> ToScalar(const json& value, const std::string& where, const FieldDescriptor& field) {
  if (value.is_structured()) return absl::InvalidArgumentError(fmt::format("{}: must be a single value", where));
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_ENUM:
      return ToEnum(value, where, *field.enum_type());
    case FieldDescriptor::CPPTYPE_BOOL:
      return ToBool(value, where);
    case FieldDescriptor::CPPTYPE_INT32:
      return ToWhole<int32_t>(value, where);
    case FieldDescriptor::CPPTYPE_INT64:
      return ToWhole<int64_t>(value, where);
    case FieldDescriptor::CPPTYPE_UINT32:
      return ToWhole<uint32_t>(value, where);
    case FieldDescriptor::CPPTYPE_UINT64:
      return ToWhole<uint64_t>(value, where);
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return ToReal(value, where);
    default:
      return ToText(value, where);
  }
}

absl::StatusOr<json> ToOne(const json& value, const std::string& where, const FieldDescriptor& field) {
  if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) return ToScalar(value, where, field);
  return ToMessage(value, where, *field.message_type());
}

absl::StatusOr<json> ToMap(const json& value, const std::string& where, const FieldDescriptor& field) {
  if (!value.is_object()) return absl::InvalidArgumentError(fmt::format("{}: must be a map", where));
  json result = json::object();
  for (const auto& [key, item] : value.items()) {
    const std::string name = fmt::format("{}.{}", where, key);
    RETURN_IF_ERROR(ToScalar(json(key), name, *field.message_type()->map_key()).status());
    ASSIGN_OR_RETURN(result[key], ToOne(item, name, *field.message_type()->map_value()));
  }
  return result;
}

absl::StatusOr<json> ToList(const json& value, const std::string& where, const FieldDescriptor& field) {
  if (!value.is_array()) return absl::InvalidArgumentError(fmt::format("{}: must be a list", where));
  json result = json::array();
  for (size_t i = 0; i < value.size(); ++i) {
    ASSIGN_OR_RETURN(json item, ToOne(value[i], fmt::format("{}[{}]", where, i), field));
    result.push_back(std::move(item));
  }
  return result;
}

absl::StatusOr<json> ToField(const json& value, const std::string& where, const FieldDescriptor& field) {
  if (field.is_map()) return ToMap(value, where, field);
  if (field.is_repeated()) return ToList(value, where, field);
  return ToOne(value, where, field);
}

const FieldDescriptor* FindField(const Descriptor& type, const std::string& key) {
  const FieldDescriptor* field = type.FindFieldByName(key);
  return field != nullptr ? field : type.FindFieldByCamelcaseName(key);
}

std::vector<std::string> FieldNames(const Descriptor& type) {
  std::vector<std::string> names;
  names.reserve(static_cast<size_t>(type.field_count()));
  for (int i = 0; i < type.field_count(); ++i) names.emplace_back(type.field(i)->name());
  return names;
}

absl::Status CheckOneof(const json& fields, const std::string& where, const google::protobuf::OneofDescriptor& oneof) {
  std::vector<std::string> given;
  for (int i = 0; i < oneof.field_count(); ++i) {
    const std::string name(oneof.field(i)->name());
    if (fields.contains(name)) given.push_back(name);
  }
  if (given.size() < 2) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{}{}only one of {} may be given", where, where.empty() ? "" : ": ", absl::StrJoin(given, ", ")));
}

absl::StatusOr<json> ToMessage(const json& value, const std::string& where, const Descriptor& type) {
  if (!value.is_object()) return absl::InvalidArgumentError(fmt::format("{}: must be a map", where));
  json result = json::object();
  for (const auto& [key, item] : value.items()) {
    const std::string name = where.empty() ? key : fmt::format("{}.{}", where, key);
    const FieldDescriptor* field = FindField(type, key);
    if (field == nullptr) {
      return absl::InvalidArgumentError(fmt::format("{}: unknown key{}", name, DidYouMean(key, FieldNames(type))));
    }
    ASSIGN_OR_RETURN(result[std::string(field->name())], ToField(item, name, *field));
  }
  for (int i = 0; i < type.real_oneof_decl_count(); ++i) {
    RETURN_IF_ERROR(CheckOneof(result, where, *type.oneof_decl(i)));
  }
  return result;
}

}  // namespace

absl::Status JsonToMessage(const json& value, const std::string& where, Message* message) {
  ASSIGN_OR_RETURN(const json known, ToMessage(value, where, *message->GetDescriptor()));
  const std::string text = known.dump(-1, ' ', false, json::error_handler_t::replace);
  const std::unique_ptr<Message> parsed(message->New());
  const auto status = google::protobuf::util::JsonStringToMessage(text, parsed.get());
  if (status.ok()) {
    message->MergeFrom(*parsed);
    return absl::OkStatus();
  }
  const std::string reason(status.message().data(), status.message().size());
  return absl::InvalidArgumentError(where.empty() ? reason : fmt::format("{}: {}", where, reason));
}

std::string MessageToJson(const Message& message, bool indent) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.add_whitespace = indent;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  return status.ok() ? text : "{}";
}

std::string ShortEnumName(const google::protobuf::EnumValueDescriptor& value) {
  const std::string_view name = value.name();  // a string or, in newer versions of protobuf, a view of one
  const std::string prefix = Prefix(*value.type());
  return std::string(name.starts_with(prefix) ? name.substr(prefix.size()) : name);
}

std::vector<std::string> ShortEnumNames(const EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 1; i < type.value_count(); ++i) names.push_back(ShortEnumName(*type.value(i)));
  return names;
}

}  // namespace automodeld
