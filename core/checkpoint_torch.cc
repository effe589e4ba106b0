#include <absl/strings/str_join.h>
#include <fmt/format.h>

#include <array>
#include <exception>
#include <iterator>
#include <numeric>
#include <utility>

#include "core/checkpoint.h"
#include "core/exception_torch.h"
#include "kernels/kv_cache.h"

namespace automodeld {

namespace {

constexpr std::array<const char*, 2> kScaleNames = {".weight_scale", ".weight_scale_inv"};

int64_t Blocks(int64_t dim) { return (dim + kFp8Block - 1) / kFp8Block; }

bool IsOneNumber(const std::vector<int64_t>& shape) { return c10::multiply_integers(shape) == 1; }

bool IsPerBlock(const std::vector<int64_t>& shape, int64_t out, int64_t in) {
  return shape.size() == 2 && shape[0] == Blocks(out) && shape[1] == Blocks(in);
}

// A stored scale, float32, as a scale for every row: [out, 1] or [out, blocks].
at::Tensor ForRows(const at::Tensor& stored, int64_t out, int64_t in) {
  const std::vector<int64_t> shape = stored.sizes().vec();
  if (IsOneNumber(shape)) return stored.reshape({1, 1}).expand({out, 1});
  if (shape[0] == out) return stored.reshape({out, 1});
  return stored.repeat_interleave(kFp8Block, 0).narrow(0, 0, out).expand({out, Blocks(in)});
}

int64_t RowsOf(const LinearGroup& group) { return std::reduce(group.out_dims.begin(), group.out_dims.end()); }

Fp8Weight Rows(const Fp8Weight& weight, int64_t first, int64_t rows) {
  return {.values = weight.values.narrow(0, first, rows), .scale = weight.scale.narrow(0, first, rows)};
}

}  // namespace

Weights Weights::operator/(const std::string& child) const {
  Weights inner = *this;
  inner.scope_ += child + ".";
  return inner;
}

bool Weights::Has(const std::string& name) const { return source_->Find(scope_ + name).has_value(); }

at::Tensor Weights::Get(const std::string& name, at::IntArrayRef shape) const {
  const auto make = [&] { return ReadNew(scope_ + name, shape, c10::typeMetaToScalarType(options_.dtype())); };
  return std::get<at::Tensor>(Kept(Once(scope_ + name, make)));
}

at::Tensor Weights::Fused(const std::vector<std::string>& names, const std::vector<int64_t>& dims) const {
  const auto make = [&] {
    const at::Tensor all = at::empty({std::reduce(dims.begin(), dims.end())}, options_);
    int64_t first = 0;
    for (size_t i = 0; i < names.size(); first += dims[i++]) ReadInto(scope_ + names[i], all.narrow(0, first, dims[i]));
    return all;
  };
  return std::get<at::Tensor>(Kept(Once(scope_ + names[0], make)));
}

LinearWeight Weights::Matrix(const std::vector<std::string>& members, const std::vector<int64_t>& out_dims,
                             int64_t in_dim) const {
  LinearGroup group{.fqns = {}, .out_dims = out_dims, .in_dim = in_dim};
  for (const std::string& member : members) {
    group.fqns.push_back(member.empty() ? scope_.substr(0, scope_.size() - 1) : scope_ + member);
  }
  if (DecideFp8(group)) return Kept(InFp8Step(group, [&] { return MakeFp8(group); }));
  const auto make = [&]() -> LinearWeight {
    const at::Tensor plain = MakePlain(group);
    return source_->ok() ? PackWeight(plain) : plain;
  };
  return Kept(Once(group.fqns[0] + ".weight", make));
}

LinearWeight Weights::Tied(const at::Tensor& tied) const {
  const LinearGroup group{
      .fqns = {scope_.substr(0, scope_.size() - 1)}, .out_dims = {tied.size(0)}, .in_dim = tied.size(1)};
  if (!DecideFp8(group)) return tied;
  return Kept(InFp8Step(group, [&] {
    Fp8Weight copy = EmptyFp8Weight(tied.size(0), tied.size(1), options_.device());
    copy.emulate = plan_->fp8.emulate();
    Quantize(tied, copy);
    return copy;
  }));
}

double Weights::Scale(const std::vector<std::string>& names) const {
  const auto name = std::ranges::find_if(names, [this](const std::string& candidate) { return Has(candidate); });
  if (name == names.end()) return 1.0;
  const std::vector<int64_t> shape = source_->Find(scope_ + *name)->shape;
  if (!IsOneNumber(shape)) {
    source_->Fail(fmt::format("{}{}: shape [{}], expected one number", scope_, *name, absl::StrJoin(shape, ", ")));
    return 1.0;
  }
  const at::Tensor number = ReadNew(scope_ + *name, shape, at::kFloat);
  const double scale = number.is_meta() ? 1.0 : number.item<double>();
  if (kMinKvScale <= scale && scale <= kMaxKvScale) return scale;
  source_->Fail(fmt::format("{}{}: {} is outside {}..{}", scope_, *name, scale, kMinKvScale, kMaxKvScale));
  return 1.0;
}

at::Tensor Weights::ReadNew(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) const {
  at::Tensor out = at::empty(shape, options_.dtype(dtype));
  ReadInto(name, out);
  return out;
}

void Weights::ReadInto(const std::string& name, at::Tensor out) const {
  if (source_->Expect(name, out.sizes(), out.scalar_type())) source_->Read(name, std::move(out));
}

LinearWeight Weights::Once(const std::string& name, const std::function<LinearWeight()>& make) const {
  if (plan_ == nullptr || plan_->planning) return make();
  if (const auto found = plan_->read.find(name); found != plan_->read.end()) return found->second;
  LinearWeight made = make();
  if (plan_->fp8.converts()) plan_->read.emplace(name, made);
  return made;
}

LinearWeight Weights::Kept(LinearWeight weight) const {
  if (const auto* fp8 = std::get_if<Fp8Weight>(&weight)) {
    source_->Keep(fp8->values);
    source_->Keep(fp8->scale);
  } else {
    source_->Keep(std::get<at::Tensor>(weight));
  }
  return weight;
}

StoredWeight Weights::FormOf(const std::string& fqn) const {
  const std::optional<StoredForm> weight = source_->Find(fqn + ".weight");
  if (!weight.has_value() || !weight->fp8) return StoredWeight::kPlain;
  for (const char* name : kScaleNames) {
    const std::optional<StoredForm> scale = source_->Find(fqn + name);
    if (!scale.has_value() || weight->shape.size() != 2 || IsOneNumber(scale->shape)) continue;
    if (IsPerBlock(scale->shape, weight->shape[0], weight->shape[1])) return StoredWeight::kFp8Blocks;
  }
  return StoredWeight::kFp8;
}

std::vector<StoredWeight> Weights::FormsOf(const LinearGroup& group) const {
  std::vector<StoredWeight> forms;
  std::ranges::transform(group.fqns, std::back_inserter(forms), [this](const std::string& fqn) { return FormOf(fqn); });
  return forms;
}

bool Weights::DecideFp8(const LinearGroup& group) const {
  if (plan_ == nullptr) return false;
  if (plan_->planning) plan_->fp8.Add(group, FormsOf(group));
  return plan_->fp8.IsFp8(group.fqns[0]);
}

Fp8Weight Weights::MakeFp8(const LinearGroup& group) const {
  const std::vector<StoredWeight> forms = FormsOf(group);
  const bool blocks = std::ranges::find(forms, StoredWeight::kFp8Blocks) != forms.end();
  Fp8Weight all = EmptyFp8Weight(RowsOf(group), group.in_dim, options_.device(), blocks);
  all.emulate = plan_->fp8.emulate();
  int64_t first = 0;
  for (size_t i = 0; i < group.fqns.size(); first += group.out_dims[i++]) {
    const Fp8Weight part = Rows(all, first, group.out_dims[i]);
    if (forms[i] != StoredWeight::kPlain) {
      ReadFp8(group.fqns[i], part);
      continue;
    }
    const at::Tensor plain =
        ReadNew(group.fqns[i] + ".weight", part.values.sizes(), c10::typeMetaToScalarType(options_.dtype()));
    source_->Borrow(static_cast<int64_t>(plain.nbytes()));
    Quantize(plain, part);
  }
  return all;
}

at::Tensor Weights::MakePlain(const LinearGroup& group) const {
  const at::Tensor all = at::empty({RowsOf(group), group.in_dim}, options_);
  int64_t first = 0;
  for (size_t i = 0; i < group.fqns.size(); first += group.out_dims[i++]) {
    const at::Tensor part = all.narrow(0, first, group.out_dims[i]);
    const StoredWeight form = FormOf(group.fqns[i]);
    if (form == StoredWeight::kPlain) {
      ReadInto(group.fqns[i] + ".weight", part);
      continue;
    }
    const Fp8Weight stored =
        EmptyFp8Weight(part.size(0), part.size(1), options_.device(), form == StoredWeight::kFp8Blocks);
    source_->Borrow(static_cast<int64_t>(stored.values.nbytes()));
    ReadFp8(group.fqns[i], stored);
    if (!part.is_meta() && source_->ok()) DequantizeWeight(stored, part);
  }
  return all;
}

void Weights::ReadFp8(const std::string& fqn, const Fp8Weight& to) const {
  const int64_t out = to.values.size(0), in = to.values.size(1);
  ReadInto(fqn + ".weight", to.values);
  for (const char* name : kScaleNames) {
    const std::optional<StoredForm> scale = source_->Find(fqn + name);
    if (!scale.has_value()) continue;
    const std::vector<int64_t>& shape = scale->shape;
    const bool per_row = !shape.empty() && shape[0] == out && c10::multiply_integers(shape) == out;
    if (!IsOneNumber(shape) && !per_row && !IsPerBlock(shape, out, in)) {
      return source_->Fail(fmt::format("{}{}: shape [{}], expected [1], [{}, 1] or [{}, {}]", fqn, name,
                                       absl::StrJoin(shape, ", "), out, Blocks(out), Blocks(in)));
    }
    to.scale.copy_(ForRows(ReadNew(fqn + name, shape, at::kFloat), out, in).expand_as(to.scale));
    return;
  }
  source_->Fail(fmt::format("{}.weight: F8_E4M3 without a weight_scale", fqn));
}

void Weights::Quantize(const at::Tensor& weight, const Fp8Weight& to) const {
  if (weight.is_meta() || !source_->ok()) return;
  const Fp8Weight rows{.values = to.values, .scale = to.scale.narrow(1, 0, 1)};
  QuantizeWeight(weight, plan_->fp8.per_row() ? Fp8Scaling::kRow : Fp8Scaling::kTensor, rows);
  to.scale.copy_(rows.scale.expand_as(to.scale));
}

// What goes wrong in the step is its own failure, unless memory has run out.
Fp8Weight Weights::InFp8Step(const LinearGroup& group, const std::function<Fp8Weight()>& make) const {
  if (plan_->planning) return make();
  if (!source_->ok()) return EmptyFp8Weight(RowsOf(group), group.in_dim, options_.device());
  try {
    if (const absl::Status status = plan_->fp8_fault(); !status.ok()) throw Fp8Failure(std::string(status.message()));
    return make();
  } catch (const Fp8Failure&) {
    throw;
  } catch (const std::exception& error) {
    const absl::Status status = StatusOfException(error);
    if (absl::IsResourceExhausted(status)) throw;
    throw Fp8Failure(std::string(status.message()));
  }
}

}  // namespace automodeld
