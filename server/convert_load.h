// LoadModelRequest to LoadOptions, and what a load and a model say of themselves to the wire.
//
//   ASSIGN_OR_RETURN(LoadOptions options, ToLoadOptions(request));   // `path` as the client wrote it
#ifndef SERVER_CONVERT_LOAD_H_
#define SERVER_CONVERT_LOAD_H_

#include <absl/status/statusor.h>

#include "automodeld/v1/models.pb.h"
#include "core/auto_model.h"
#include "core/model_registry.h"

namespace automodeld {

// Every range of models.proto is checked and every default filled in; `model` is the name to serve.
//   INVALID_ARGUMENT  field, value and range
//   UNIMPLEMENTED     a field whose feature this version does not have
absl::StatusOr<LoadOptions> ToLoadOptions(const v1::LoadModelRequest& request);

v1::LoadProgress ToProto(const LoadProgress& progress);
v1::LoadReport ToProto(const LoadReport& report);
v1::ModelStatus ToProto(const ModelStatus& status);

}  // namespace automodeld

#endif  // SERVER_CONVERT_LOAD_H_
