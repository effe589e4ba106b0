// Trying a version of an operation before a model uses it.
//
//   RETURN_IF_ERROR(ProbeOp("rms_norm", EagerOps(), patched, DimsOf(shape), options));
#ifndef CORE_OP_PROBE_H_
#define CORE_OP_PROBE_H_

#include <ATen/ATen.h>
#include <absl/status/status.h>

#include <string>

#include "core/model.h"
#include "kernels/op_samples.h"
#include "kernels/ops.h"

namespace automodeld {

OpDims DimsOf(const ModelShape& shape);

// Runs op `op` of both tables on a few rows of a model's shapes, in `options`' dtype on its device, and compares:
// shapes, types, then values, within what rounding explains. Takes milliseconds.
//   RESOURCE_EXHAUSTED   no memory
//   FAILED_PRECONDITION  `patched` differs or throws, and how: "rms_norm: 3 x 64: result 0 differs by 0.5, ..."
absl::Status ProbeOp(const std::string& op, const Ops& eager, const Ops& patched, const OpDims& dims,
                     const at::TensorOptions& options);

}  // namespace automodeld

#endif  // CORE_OP_PROBE_H_
