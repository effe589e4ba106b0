// Between messages and the bytes that gRPC carries. Our services take bytes, because gRPC would answer a request that
// it cannot read with UNIMPLEMENTED and no text, and no call would be logged or counted.
//
//   v1::EmbedRequest request;
//   RETURN_IF_ERROR(Parse(*bytes, &request));   // `inputs[3].text: invalid UTF-8 at byte 17`
//
// Any thread.
#ifndef SERVER_WIRE_H_
#define SERVER_WIRE_H_

#include <absl/status/status.h>
#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

namespace automodeld {

// Replaces what `message` holds. INVALID_ARGUMENT names the first string that is not UTF-8 by its path, entries of maps
// as `op_overrides[0].value`; for bytes that are no such message it says so: `the request is no
// automodeld.v1.EmbedRequest`.
absl::Status Parse(const grpc::ByteBuffer& bytes, google::protobuf::Message* message);

// Replaces what `bytes` holds. INTERNAL if `message` takes more than 2 GiB.
absl::Status Serialize(const google::protobuf::Message& message, grpc::ByteBuffer* bytes);

}  // namespace automodeld

#endif  // SERVER_WIRE_H_
