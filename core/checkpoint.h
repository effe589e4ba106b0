// Weights by Hugging Face's names: a model's constructor pulls each tensor by scope, name and shape.
//
//   RmsNorm(w / "norm", ...):      w.Get("weight", {4096})
//   Linear(w / "self_attn", ...):  w.Matrix({"q_proj", "k_proj", "v_proj"}, {4096, 1024, 1024}, 4096)
//
// Errors are collected, so that one Status lists every missing and misshapen tensor; the tensors returned meanwhile are
// empty ones of the right shape. Sources: a checkpoint's safetensors files, random numbers from a seed (FromConfig), or
// only names and shapes (check_only: tensors on the meta device).
#ifndef CORE_CHECKPOINT_H_
#define CORE_CHECKPOINT_H_

#include <ATen/ATen.h>
#include <absl/status/status.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/fp8.h"
#include "kernels/linear.h"

namespace automodeld {

// How a source has a tensor.
struct StoredForm {
  std::vector<int64_t> shape;
  bool fp8 = false;  // F8_E4M3: its numbers mean something only times a scale
};

// One load's source of tensors. Names are full and already carry the base-model prefix the model asks with.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // Nothing: there is no tensor of that name, or any would do.
  virtual std::optional<StoredForm> Find(const std::string& name) const = 0;
  // Fills `out` (contiguous, on its device, of the wanted dtype, of the tensor's shape) or records an error. Called
  // after Expect said yes.
  virtual void Read(const std::string& name, at::Tensor out) = 0;
  // Whether there is such a tensor, its shape is `shape` and its numbers can be read as `dtype`; what is missing or
  // misshapen is recorded.
  virtual bool Expect(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) = 0;
  virtual void Fail(const std::string& error) = 0;
  // False once reading has failed or was cancelled: tensors hold no numbers from then on, and nothing is made of them.
  virtual bool ok() const { return true; }

  // Counted by Weights: what the model keeps, and the most that was needed besides at a time.
  void Keep(const at::Tensor& tensor) { kept_bytes_ += static_cast<int64_t>(tensor.nbytes()); }
  void Borrow(int64_t bytes) { borrowed_bytes_ = std::max(borrowed_bytes_, bytes); }
  int64_t kept_bytes() const { return kept_bytes_; }
  int64_t borrowed_bytes() const { return borrowed_bytes_; }

 private:
  int64_t kept_bytes_ = 0;
  int64_t borrowed_bytes_ = 0;
};

// The FP8 step failed at a tensor; the load is tried again without it.
struct Fp8Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What the loads of one model share: what is planned of its linears, and what was read before the FP8 step failed.
struct WeightPlan {
  Fp8Plan fp8;
  bool planning = true;                      // Weights adds groups to `fp8`; else it asks
  std::map<std::string, LinearWeight> read;  // plain tensors by name, for another try
  std::function<absl::Status()> fp8_fault = [] { return absl::OkStatus(); };  // for tests: an error of the FP8 step
};

// A scope of names in a source. Cheap to copy; valid while the source and the plan are.
class Weights {
 public:
  // Null `plan`: nothing is in FP8.
  Weights(WeightSource* source, at::TensorOptions options, WeightPlan* plan = nullptr)
      : source_(source), options_(options), plan_(plan) {}

  Weights operator/(const std::string& child) const;  // w / "layers" / std::to_string(3)

  bool Has(const std::string& name) const;
  // The tensor `name` in the target dtype on the target device; its shape must be `shape`.
  at::Tensor Get(const std::string& name, at::IntArrayRef shape) const;
  // Several vectors, dims[i] long, as one.
  at::Tensor Fused(const std::vector<std::string>& names, const std::vector<int64_t>& dims) const;

  // The `weight` of a linear, or of several of one input as one matrix: member i owns out_dims[i] rows. Members are
  // scopes below this one; "" is this one itself. In the form that the plan gives it.
  LinearWeight Matrix(const std::vector<std::string>& members, const std::vector<int64_t>& out_dims,
                      int64_t in_dim) const;
  // This scope's linear, whose weight is another tensor: `tied` itself, or a copy in FP8.
  LinearWeight Tied(const at::Tensor& tied) const;
  // A scale of a KV cache that a quantised checkpoint may have, under the first of these names that there is; else 1.
  double Scale(const std::vector<std::string>& names) const;

  const at::TensorOptions& options() const { return options_; }
  const std::string& scope() const { return scope_; }  // "model.layers.3." or ""

 private:
  at::Tensor ReadNew(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) const;
  void ReadInto(const std::string& name, at::Tensor out) const;
  // Gives what an earlier try has read under `name`, or makes it and keeps it for the next.
  LinearWeight Once(const std::string& name, const std::function<LinearWeight()>& make) const;
  StoredWeight FormOf(const std::string& fqn) const;
  std::vector<StoredWeight> FormsOf(const LinearGroup& group) const;
  bool DecideFp8(const LinearGroup& group) const;
  Fp8Weight MakeFp8(const LinearGroup& group) const;
  at::Tensor MakePlain(const LinearGroup& group) const;
  void ReadFp8(const std::string& fqn, const Fp8Weight& to) const;
  void Quantize(const at::Tensor& weight, const Fp8Weight& to) const;
  Fp8Weight InFp8Step(const LinearGroup& group, const std::function<Fp8Weight()>& make) const;
  LinearWeight Kept(LinearWeight weight) const;

  WeightSource* source_;
  at::TensorOptions options_;
  WeightPlan* plan_;
  std::string scope_;
};

}  // namespace automodeld

#endif  // CORE_CHECKPOINT_H_
