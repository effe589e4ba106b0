#include "core/layers/linear.h"

#include <utility>

#include "kernels/linear.h"

namespace automodeld {

namespace {

std::vector<std::string> WithSuffix(const std::vector<std::string>& members, const std::string& suffix) {
  std::vector<std::string> names;
  names.reserve(members.size());
  for (const std::string& member : members) names.push_back(member + suffix);
  return names;
}

}  // namespace

Linear::Linear(const Weights& w, const LinearShape& shape) : weight_(w.Matrix({""}, {shape.out}, shape.in)) {
  if (shape.bias) bias_ = w.Get("bias", {shape.out});
}

Linear::Linear(const Weights& w, const std::vector<std::string>& members, const std::vector<int64_t>& out_dims,
               int64_t in_dim, bool bias)
    : weight_(w.Matrix(members, out_dims, in_dim)) {
  if (bias) bias_ = w.Fused(WithSuffix(members, ".bias"), out_dims);
}

at::Tensor Linear::operator()(const LinearInput& x, const std::string& activation) const {
  return RunLinear(x, weight_, bias_, activation);
}

}  // namespace automodeld
