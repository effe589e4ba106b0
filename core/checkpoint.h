// Weights by Hugging Face's names: a model's constructor pulls each tensor by scope, name and shape.
//
//   Linear(w / "self_attn", ...):  w.Fused({"q_proj.weight", "k_proj.weight"}, {4096, 1024}, 4096)
//   RmsNorm(w / "norm", ...):      w.Get("weight", {4096})
//
// Errors are collected, so that one Status lists every missing and misshapen tensor; the tensors returned meanwhile are
// empty ones of the right shape. Sources: a checkpoint's safetensors files, random numbers from a seed (FromConfig), or
// only names and shapes (check_only: tensors on the meta device).
#ifndef CORE_CHECKPOINT_H_
#define CORE_CHECKPOINT_H_

#include <ATen/ATen.h>
#include <absl/status/status.h>

#include <memory>
#include <string>
#include <vector>

namespace automodeld {

// One load's source of tensors. Names are full and already carry the base-model prefix the model asks with.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual bool Has(const std::string& name) const = 0;
  // Fills `out` (contiguous, on its device, of the target dtype, of the tensor's shape) or records an error. Called
  // after Expect said yes.
  virtual void Read(const std::string& name, at::Tensor out) = 0;
  // Whether there is such a tensor and its shape is `shape`; what is missing or misshapen is recorded.
  virtual bool Expect(const std::string& name, at::IntArrayRef shape) = 0;
  virtual void Fail(const std::string& error) = 0;
};

// A scope of names in a source. Cheap to copy; valid while the source is.
class Weights {
 public:
  Weights(WeightSource* source, at::TensorOptions options) : source_(source), options_(options) {}

  Weights operator/(const std::string& child) const;  // w / "layers" / std::to_string(3)

  bool Has(const std::string& name) const;
  // The tensor `name` in the target dtype on the target device; its shape must be `shape`.
  at::Tensor Get(const std::string& name, at::IntArrayRef shape) const;
  // Several matrices (or vectors, with in_dim 0) stacked along dimension 0 into one tensor, each read into its place.
  at::Tensor Fused(const std::vector<std::string>& names, at::IntArrayRef out_dims, int64_t in_dim) const;

  const at::TensorOptions& options() const { return options_; }
  const std::string& scope() const { return scope_; }  // "model.layers.3." or ""

 private:
  void ReadInto(const std::string& name, at::Tensor out) const;

  WeightSource* source_;
  at::TensorOptions options_;
  std::string scope_;
};

}  // namespace automodeld

#endif  // CORE_CHECKPOINT_H_
