// A flag for every field of a message, found by walking its descriptor, so that the command line cannot lag behind the
// API.
//
//   MessageFlags flags(command, *LoadModelRequest::descriptor());
//   command.parse("--torch-dtype bfloat16 --sdpa-method MATH --fp8-config.recipe-name rowwise --no-use-liger-kernel");
//   RETURN_IF_ERROR(flags.Fill(&request));
//
// Names are the field's with "-" for "_", nested ones after a dot. A repeated field's flag is given
// once per value, a map's takes KEY=VALUE; a bool needs no value and has a --no- twin; a message's flag sets it with
// its defaults (--fp8-config) or from JSON (--fp8-config='{"emulate": true}'). Enum values go by their short names. A
// field that holds JSON takes the text itself, if it begins with "{", or else the name of a file.
#ifndef SERVER_MESSAGE_FLAGS_H_
#define SERVER_MESSAGE_FLAGS_H_

#include <absl/status/status.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <CLI/App.hpp>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <vector>

namespace automodeld {

class MessageFlags {
 public:
  // Adds the flags to `command`, which must outlive this; no flags for the top-level fields named in `skip`.
  MessageFlags(CLI::App& command, const google::protobuf::Descriptor& type, const std::set<std::string>& skip = {});

  // What the parsed command line says, put into `message`; fields without a flag there stay as they are.
  // INVALID_ARGUMENT names the flag.
  absl::Status Fill(google::protobuf::Message* message) const;

 private:
  using Field = google::protobuf::FieldDescriptor;
  struct Flag {
    std::vector<const Field*> path;  // outermost first
    CLI::Option* option;
  };

  void AddAll(const google::protobuf::Descriptor& type, const std::vector<const Field*>& above);
  void Add(std::vector<const Field*> path);

  CLI::App& command_;
  std::vector<Flag> flags_;
};

// --fp8-config.recipe-name
std::string FlagName(const std::vector<const google::protobuf::FieldDescriptor*>& path);

}  // namespace automodeld

#endif  // SERVER_MESSAGE_FLAGS_H_
