// The first decisions of a load, from config.json and the options alone: which architecture, which type, and which
// fields ask for what is not built yet.
#ifndef CORE_PLAN_TORCH_H_
#define CORE_PLAN_TORCH_H_

#include <ATen/ATen.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <string>

#include "core/auto_model.h"
#include "core/config.h"
#include "core/models/architecture.h"
#include "core/safetensors.h"

namespace automodeld {

// The row that `architectures[0]` names; where it is absent, or unknown but a class is asked for, the row of
// model_type.
//   UNIMPLEMENTED     none; the known ones are listed. A checkpoint that brings its own code is told that it never runs
//   INVALID_ARGUMENT  the architecture is not of the class asked for
absl::StatusOr<const Architecture*> ChooseArchitecture(const Config& config, AutoClass auto_class);

// "auto": config.json's dtype (torch_dtype before 2025), else that of the first floating tensor, else float32. Else
// bfloat16, bf16, float16, half, float32 or float in any case, with or without "torch.". Null `files`: no tensors.
absl::StatusOr<at::ScalarType> ChooseDtype(const std::string& torch_dtype, const Config& config,
                                           const Safetensors* files);

// "bfloat16"
std::string DtypeName(at::ScalarType dtype);

// UNIMPLEMENTED, naming the field, for what is present and comes later; INVALID_ARGUMENT for values never to come.
absl::Status CheckFieldsBuilt(const LoadOptions& options);

}  // namespace automodeld

#endif  // CORE_PLAN_TORCH_H_
