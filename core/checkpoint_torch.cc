#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/checkpoint.h"

namespace automodeld {

Weights Weights::operator/(const std::string& child) const {
  Weights inner = *this;
  inner.scope_ += child + ".";
  return inner;
}

bool Weights::Has(const std::string& name) const { return source_->Has(scope_ + name); }

at::Tensor Weights::Get(const std::string& name, at::IntArrayRef shape) const {
  at::Tensor out = at::empty(shape, options_);
  ReadInto(name, out);
  return out;
}

at::Tensor Weights::Fused(const std::vector<std::string>& names, at::IntArrayRef out_dims, int64_t in_dim) const {
  int64_t rows = 0;
  for (const int64_t dim : out_dims) rows += dim;
  const at::Tensor all = in_dim == 0 ? at::empty({rows}, options_) : at::empty({rows, in_dim}, options_);
  int64_t first = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    ReadInto(names[i], all.narrow(0, first, out_dims[i]));
    first += out_dims[i];
  }
  return all;
}

void Weights::ReadInto(const std::string& name, at::Tensor out) const {
  if (source_->Expect(scope_ + name, out.sizes())) source_->Read(scope_ + name, std::move(out));
}

}  // namespace automodeld
