// Conversion of linear weights to FP8: which linears there are, and what becomes of each.
//
//   report.fp8 = ReportUnconverted(config, linears, "why not");
//
// Follows nemo_automodel's `apply_fp8_to_model` and `verify_fp8_conversion`. Torch-free.
#ifndef CORE_FP8_H_
#define CORE_FP8_H_

#include <absl/status/status.h>

#include <string>
#include <vector>

#include "core/auto_model.h"

namespace automodeld {

// Whether a tensor is a linear's weight that `config` counts: a matrix `*.weight` that is no embedding table, and
// lm_head only with include_lm_head.
bool IsFp8Linear(const Fp8Config& config, const std::string& name, const std::vector<int64_t>& shape);

// What a load that converts nothing reports of its linears, named as in the checkpoint without ".weight": each is
// skipped, with the reason that would hold in any case (a filter, the dimensions) or else `why_not`.
Fp8Report ReportUnconverted(const Fp8Config& config, const std::vector<Fp8Report::Module>& linears,
                            const std::string& why_not);

}  // namespace automodeld

#endif  // CORE_FP8_H_
