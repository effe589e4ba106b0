#include <algorithm>
#include <string_view>
#include <utility>

#include "core/listing.h"
#include "core/status.h"
#include "core/weight_sources_torch.h"

namespace automodeld {

namespace {

constexpr int64_t kStagingBytes = 32 << 20;

at::ScalarType ScalarTypeOf(const StoredTensor& stored) {
  const std::string_view name = stored.type->name;
  if (name == "F64") return at::kDouble;
  if (name == "F32") return at::kFloat;
  if (name == "F16") return at::kHalf;
  if (name == "BF16") return at::kBFloat16;
  if (name == "F8_E4M3") return at::kFloat8_e4m3fn;
  return at::ScalarType::Undefined;
}

std::span<std::byte> Bytes(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()};
}

}  // namespace

std::optional<StoredForm> SafetensorsSource::Find(const std::string& name) const {
  return AsStored(FindStored(files_, base_prefix_, name));
}

bool SafetensorsSource::Expect(const std::string& name, at::IntArrayRef shape, at::ScalarType) {
  const StoredTensor* stored = FindStored(files_, base_prefix_, name);
  if (stored != nullptr && stored->shape == shape.vec()) return true;
  Fail(fmt::format("{}: {}", Shortened(name), stored == nullptr ? "missing" : "misshapen"));
  return false;
}

void SafetensorsSource::Fail(const std::string& error) {
  if (status_.ok()) status_ = absl::FailedPreconditionError(error);
}

void SafetensorsSource::Read(const std::string& name, at::Tensor out) {
  if (status_.ok()) status_ = meter_->Check();
  if (!status_.ok() || out.numel() == 0) return;
  const StoredTensor& stored = *FindStored(files_, base_prefix_, name);
  const bool direct = out.is_cpu() && out.scalar_type() == ScalarTypeOf(stored);
  status_ = direct ? ReadDirect(stored, out) : ReadConverted(stored, out);
  meter_->Advance(static_cast<int64_t>(stored.bytes));
}

absl::Status SafetensorsSource::ReadDirect(const StoredTensor& stored, const at::Tensor& out) const {
  return files_.Read(stored, 0, Bytes(out));
}

absl::Status SafetensorsSource::ReadConverted(const StoredTensor& stored, const at::Tensor& out) {
  const at::ScalarType type = ScalarTypeOf(stored);
  if (type == at::ScalarType::Undefined) {
    return absl::UnimplementedError(fmt::format("{}: {} is not read yet", Shortened(stored.name), stored.type->name));
  }
  if (!staging_.defined()) {
    staging_ = at::empty({kStagingBytes}, at::TensorOptions(at::kByte).pinned_memory(out.is_cuda()));
  }
  const at::Tensor flat = out.view(-1);
  const auto width = static_cast<int64_t>(c10::elementSize(type));
  for (int64_t first = 0; first < flat.numel();) {
    const int64_t count = std::min(kStagingBytes / width, flat.numel() - first);
    const at::Tensor bytes = staging_.narrow(0, 0, count * width);
    RETURN_IF_ERROR(files_.Read(stored, static_cast<uint64_t>(first * width), Bytes(bytes)));
    flat.narrow(0, first, count).copy_(bytes.view(type));
    first += count;
  }
  return absl::OkStatus();
}

}  // namespace automodeld
