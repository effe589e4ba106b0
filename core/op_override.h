// Operations of other people: registered with TORCH_LIBRARY by a shared library (core/op_library.h), named in
// op_overrides, called through libtorch's dispatcher.
//
//   ASSIGN_OR_RETURN(Ops ops, OverrideOps(eager, {{"rms_norm", "mycorp::rms_norm"}}));
#ifndef CORE_OP_OVERRIDE_H_
#define CORE_OP_OVERRIDE_H_

#include <absl/status/statusor.h>

#include <map>
#include <string>

#include "kernels/ops.h"

namespace automodeld {

// The table with the operations named by `overrides` (name -> "namespace::name" or "namespace::name.overload")
// replaced. An absent tensor is None there; a result that is None or undefined is undefined here.
//   INVALID_ARGUMENT  none of the table's operations (they are listed); nothing is registered by that name; the
//                     schemas differ (both are shown)
absl::StatusOr<Ops> OverrideOps(const Ops& ops, const std::map<std::string, std::string>& overrides);

}  // namespace automodeld

#endif  // CORE_OP_OVERRIDE_H_
