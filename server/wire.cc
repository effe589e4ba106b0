#include "server/wire.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <boost/locale/utf.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace automodeld {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

// Bytes of `text` before the first that belongs to no character.
size_t ValidUtf8(std::string_view text) {
  const char* at = text.begin();
  while (at != text.end()) {
    const char* const character = at;
    const auto code = boost::locale::utf::utf_traits<char>::decode(at, text.end());
    if (!boost::locale::utf::is_valid_codepoint(code)) return static_cast<size_t>(character - text.begin());
  }
  return text.size();
}

// The walk along a message that protobuf has refused: true where there is nothing to object to. Else `fault` is what
// to say after the field's name, or empty where the bytes are not even fields.
bool WalkMessage(CodedInputStream* in, const Descriptor& type, std::string* fault);

bool WalkText(CodedInputStream* in, std::string* fault) {
  int size = 0;
  std::string text;
  if (!in->ReadVarintSizeAsInt(&size) || !in->ReadString(&text, size)) return false;
  const size_t valid = ValidUtf8(text);
  if (valid < text.size()) *fault = fmt::format(": invalid UTF-8 at byte {}", valid);
  return fault->empty();
}

bool WalkNested(CodedInputStream* in, const Descriptor& type, std::string* fault) {
  int size = 0;
  if (!in->ReadVarintSizeAsInt(&size)) return false;
  const auto [limit, levels_left] = in->IncrementRecursionDepthAndPushLimit(size);
  if (levels_left >= 0 && WalkMessage(in, type, fault)) return in->DecrementRecursionDepthAndPopLimit(limit);
  if (!fault->empty()) fault->insert(0, ".");
  return false;
}

bool WalkField(CodedInputStream* in, uint32_t tag, const FieldDescriptor* field, std::string* fault) {
  const bool sized = WireFormatLite::GetTagWireType(tag) == WireFormatLite::WIRETYPE_LENGTH_DELIMITED;
  const auto type = field != nullptr && sized ? field->type() : FieldDescriptor::TYPE_BYTES;
  if (type == FieldDescriptor::TYPE_STRING) return WalkText(in, fault);
  if (type == FieldDescriptor::TYPE_MESSAGE) return WalkNested(in, *field->message_type(), fault);
  return WireFormatLite::SkipField(in, tag);
}

// Names are put together on the way out: a message may have millions of fields before the one at fault.
bool WalkMessage(CodedInputStream* in, const Descriptor& type, std::string* fault) {
  std::vector<int> seen(static_cast<size_t>(type.field_count()));
  while (const uint32_t tag = in->ReadTag()) {
    const FieldDescriptor* field = type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    const int index = field == nullptr ? 0 : seen[static_cast<size_t>(field->index())]++;
    if (WalkField(in, tag, field, fault)) continue;
    if (fault->empty()) return false;
    fault->insert(0, field->is_repeated() ? fmt::format("{}[{}]", field->name(), index) : field->name());
    return false;
  }
  return in->ConsumedEntireMessage();
}

absl::Status WhyRefused(grpc::ByteBuffer* bytes, const Descriptor& type) {
  std::string fault;
  grpc::ProtoBufferReader reader(bytes);
  CodedInputStream in(&reader);
  WalkMessage(&in, type, &fault);
  if (fault.empty()) fault = fmt::format("the request is no {}", type.full_name());
  return absl::InvalidArgumentError(fault);
}

}  // namespace

absl::Status Parse(const grpc::ByteBuffer& bytes, Message* message) {
  grpc::ByteBuffer shared(bytes);  // the same memory: the reader takes no const
  grpc::ProtoBufferReader reader(&shared);
  if (reader.status().ok() && message->ParseFromZeroCopyStream(&reader)) return absl::OkStatus();
  return WhyRefused(&shared, *message->GetDescriptor());
}

absl::Status Serialize(const Message& message, grpc::ByteBuffer* bytes) {
  bytes->Clear();
  bool owned = false;
  const grpc::Status status = grpc::SerializationTraits<Message>::Serialize(message, bytes, &owned);
  return status.ok() ? absl::OkStatus() : absl::InternalError(status.error_message());
}

}  // namespace automodeld
