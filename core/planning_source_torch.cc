#include <absl/strings/str_join.h>

#include <utility>

#include "core/listing.h"
#include "core/status.h"
#include "core/weight_sources_torch.h"

namespace automodeld {

namespace {

std::string ShapeText(at::IntArrayRef shape) { return "[" + absl::StrJoin(shape, ", ") + "]"; }

// Numbers of 8 bits mean something only times a scale, so that they are read as they are or not at all.
bool IsReadable(const StoredTensor& stored, at::ScalarType dtype) {
  return stored.type->bits > 8 ? stored.type->floating : ScalarTypeOf(stored) == dtype && dtype == at::kFloat8_e4m3fn;
}

void AddList(const char* what, const std::vector<std::string>& names, std::vector<std::string>& parts) {
  if (!names.empty()) parts.push_back(fmt::format("{} {}: {}", names.size(), what, Listed(names)));
}

}  // namespace

const StoredTensor* FindStored(const Safetensors& files, const std::string& base_prefix, const std::string& name) {
  if (const StoredTensor* stored = files.Find(name); stored != nullptr || base_prefix.empty()) return stored;
  return name.starts_with(base_prefix) ? files.Find(name.substr(base_prefix.size())) : files.Find(base_prefix + name);
}

std::optional<StoredForm> AsStored(const StoredTensor* stored) {
  if (stored == nullptr) return std::nullopt;
  return StoredForm{.shape = stored->shape, .fp8 = ScalarTypeOf(*stored) == at::kFloat8_e4m3fn};
}

std::optional<StoredForm> PlanningSource::Find(const std::string& name) const {
  return files_ == nullptr ? std::nullopt : AsStored(FindStored(*files_, base_prefix_, name));
}

bool PlanningSource::Expect(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) {
  if (!names_.insert(name).second) return true;
  wanted_.push_back({name, shape.vec(), c10::multiply_integers(shape)});
  if (!name.ends_with("_scale") && !name.ends_with("_scale_inv")) num_parameters_ += wanted_.back().numel;
  if (files_ == nullptr) return true;
  const StoredTensor* stored = FindStored(*files_, base_prefix_, name);
  if (stored == nullptr) {
    missing_.push_back(name);
    return false;
  }
  stored_.insert(stored->name);
  stored_bytes_ += static_cast<int64_t>(stored->bytes);
  if (stored->shape != shape.vec()) {
    misshapen_.push_back(fmt::format("{}: shape {}, expected {}", name, ShapeText(stored->shape), ShapeText(shape)));
  } else if (!IsReadable(*stored, dtype)) {
    misshapen_.push_back(fmt::format("{}: type {}, expected a float", name, stored->type->name));
  }
  return true;
}

std::vector<std::string> PlanningSource::Unread() const {
  std::vector<std::string> names;
  if (files_ == nullptr) return names;
  for (const auto& [name, tensor] : files_->tensors()) {
    if (!stored_.contains(name)) names.push_back(name);
  }
  return names;
}

absl::Status PlanningSource::Check(const std::string& who, const std::vector<std::string>& unread) const {
  std::vector<std::string> parts;
  AddList("missing", missing_, parts);
  AddList("misshapen", misshapen_, parts);
  AddList("unread", unread, parts);
  AddList("other", failures_, parts);
  if (parts.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("the checkpoint does not fit {}: {}", who, absl::StrJoin(parts, "; ")));
}

}  // namespace automodeld
