// What the .proto files say about a field, for --help.
//
//   FieldHelp(*LoadModelRequest::descriptor()->FindFieldByName("seed"));   // "Seed of random weights; only with …"
//
// field_help.cc is generated: comments are not in a program's descriptors. A test compares it with the .proto files;
// run it with UPDATE_GENERATED=1 to write the file anew.
#ifndef SERVER_FIELD_HELP_H_
#define SERVER_FIELD_HELP_H_

#include <google/protobuf/descriptor.h>

#include <string>
#include <vector>

namespace automodeld {

// The field's comment on one line; empty for a message that is not among those below.
std::string FieldHelp(const google::protobuf::FieldDescriptor& field);

// The messages whose fields have help.
std::vector<const google::protobuf::Descriptor*> MessagesWithHelp();

}  // namespace automodeld

#endif  // SERVER_FIELD_HELP_H_
