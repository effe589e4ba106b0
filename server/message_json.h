// Protobuf messages from what people write: JSON, or YAML and flags turned into JSON.
//
//   LoadModelRequest request;
//   RETURN_IF_ERROR(JsonToMessage({{"path", "/m"}, {"seed", "7"}, {"sdpa_method", {"MATH"}}}, "models[0]", &request));
//
// Easier than protobuf's own parser, on which it rests: any scalar may be a text ("7", "true"), enum values need no
// prefix and no capitals, and an unknown key is an error that names the nearest known one:
// `models[0].fp8_config.recipe: unknown key; did you mean "recipe_name"?`
#ifndef SERVER_MESSAGE_JSON_H_
#define SERVER_MESSAGE_JSON_H_

#include <absl/status/status.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace automodeld {

// Sets what `json` holds, adding to lists, and leaves the other fields as they are. INVALID_ARGUMENT; `where` goes
// before field names.
absl::Status JsonToMessage(const nlohmann::json& json, const std::string& where, google::protobuf::Message* message);

// With the field names of the .proto file, on one line or indented.
std::string MessageToJson(const google::protobuf::Message& message, bool indent);

// A value's name without the enum's prefix: SDPA_METHOD_MATH is MATH.
std::string ShortEnumName(const google::protobuf::EnumValueDescriptor& value);

// The short names of all values but the one that means "unspecified".
std::vector<std::string> ShortEnumNames(const google::protobuf::EnumDescriptor& type);

}  // namespace automodeld

#endif  // SERVER_MESSAGE_JSON_H_
