#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <sstream>

#include "core/exception_torch.h"
#include "core/listing.h"
#include "core/op_probe.h"
#include "core/status.h"

namespace automodeld {

namespace {

struct Tolerance {
  double relative, absolute;
};

// Float32: sums of up to 16384 values in another order. 16 bits: both sides round up to four times by half a unit in
// the last place, at values that reach about 10 before they cancel.
Tolerance ToleranceOf(at::ScalarType dtype) {
  if (dtype == at::kHalf) return {4e-3, 1.6e-2};
  return dtype == at::kBFloat16 ? Tolerance{3.2e-2, 0.128} : Tolerance{1e-4, 1e-4};
}

// "Float [3, 64]"
std::string Form(const at::Tensor& x) {
  if (!x.defined()) return "nothing";
  std::ostringstream text;
  text << c10::toString(x.scalar_type()) << ' ' << x.sizes();
  return text.str();
}

// Empty: the same. `got` belongs on `device`, `expected` is on the CPU.
std::string Difference(const at::Tensor& got, const at::Tensor& expected, at::Device device) {
  const std::string form = Form(got), expected_form = Form(expected);
  if (form != expected_form) return fmt::format("is {}, eager's {}", form, expected_form);
  if (!got.defined()) return "";
  if (got.device() != device) return fmt::format("is on {}", got.device().str());
  const at::Tensor host = got.cpu();
  if (!at::isFloatingType(host.scalar_type())) return host.equal(expected) ? "" : "differs";
  const Tolerance tolerance = ToleranceOf(got.scalar_type());
  const at::Tensor wide = host.to(at::kFloat), reference = expected.to(at::kFloat);
  if (at::allclose(wide, reference, tolerance.relative, tolerance.absolute)) return "";
  return fmt::format("differs by {:.3g} (tolerance {:.3g} + {:.3g} of the value)",
                     (wide - reference).abs().max().item<double>(), tolerance.absolute, tolerance.relative);
}

// Eager runs on the CPU: on a GPU that has just been opened, loading the kernels of ninety of libtorch's operations
// takes half a second.
absl::Status RunSample(const Sample& sample, const Ops& eager, const Ops& patched, const at::TensorOptions& options) {
  const at::ScalarType dtype = at::typeMetaToScalarType(options.dtype());
  const at::Device device = at::empty({0}, options).device();  // with its index
  SampleTensors inputs(device, dtype, dtype), same(at::kCPU, dtype, dtype);
  const SampleResult expected = sample.run(eager, same), got = sample.run(patched, inputs);
  for (size_t i = 0; i < expected.size(); ++i) {
    const std::string difference = Difference(got[i], expected[i], device);
    if (!difference.empty()) return absl::FailedPreconditionError(fmt::format("result {} {}", i, difference));
  }
  return absl::OkStatus();
}

}  // namespace

OpDims DimsOf(const ModelShape& shape) {
  return {.hidden_size = shape.hidden_size,
          .intermediate_size = shape.intermediate_size > 0 ? shape.intermediate_size : shape.hidden_size,
          .num_heads = shape.num_heads,
          .num_kv_heads = shape.num_kv_heads,
          .head_dim = shape.head_dim,
          .vocab_size = shape.vocab_size};
}

absl::Status ProbeOp(const std::string& op, const Ops& eager, const Ops& patched, const OpDims& dims,
                     const at::TensorOptions& options) {
  const c10::InferenceMode as_models_run;
  for (const Sample& sample : ModelSamples(op, dims)) {
    const absl::Status status = WithoutExceptions([&] { return RunSample(sample, eager, patched, options); });
    if (absl::IsResourceExhausted(status)) return status;
    if (status.ok()) continue;
    return absl::FailedPreconditionError(
        fmt::format("{}: {}: {}", op, sample.name, Shortened(std::string(status.message()))));
  }
  return absl::OkStatus();
}

}  // namespace automodeld
