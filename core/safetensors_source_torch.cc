#include <algorithm>
#include <utility>
#include <vector>

#include "core/exception_torch.h"
#include "core/file.h"
#include "core/listing.h"
#include "core/memory.h"
#include "core/status.h"
#include "core/weight_sources_torch.h"

namespace automodeld {

namespace {

constexpr uint64_t kStepBytes = 32 << 20;        // between two looks at whether to stop
constexpr uint64_t kConvertedBytes = 256 << 10;  // at a time, by one thread: its core's cache holds them
// From 32,768 numbers on, libtorch would start threads of its own, which wait for each other in busy loops.
constexpr uint64_t kConvertedNumbers = 16 << 10;

std::span<std::byte> Bytes(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()};
}

void Convert(std::span<std::byte> from, at::ScalarType from_type, std::byte* to, at::ScalarType to_type) {
  const uint64_t numbers = from.size() / c10::elementSize(from_type);
  for (uint64_t i = 0; i < numbers; i += kConvertedNumbers) {
    const auto count = static_cast<int64_t>(std::min(kConvertedNumbers, numbers - i));
    at::from_blob(to + i * c10::elementSize(to_type), count, to_type)
        .copy_(at::from_blob(from.data() + i * c10::elementSize(from_type), count, from_type));
  }
}

// Of what is wanted, all that the files have, in the same order.
std::vector<const StoredTensor*> Stored(const Safetensors& files, const std::string& base_prefix,
                                        const std::vector<PlanningSource::Wanted>& wanted) {
  std::vector<const StoredTensor*> all;
  for (const PlanningSource::Wanted& tensor : wanted) {
    const StoredTensor* stored = FindStored(files, base_prefix, tensor.name);
    if (stored == nullptr || stored->bytes == 0 || ScalarTypeOf(*stored) == at::ScalarType::Undefined) continue;
    all.push_back(stored);
  }
  return all;
}

}  // namespace

SafetensorsSource::SafetensorsSource(const Safetensors& files, std::string base_prefix,
                                     const std::vector<PlanningSource::Wanted>& wanted, at::Device device,
                                     LoadMeter* meter)
    : files_(files), base_prefix_(std::move(base_prefix)), meter_(meter) {
  if (device.is_cpu()) return;
  ahead_.emplace(files_, Stored(files_, base_prefix_, wanted), device, meter_);
  extra_bytes_ = ahead_->ring_bytes();
}

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
  if (!status_.ok() || out.numel() == 0) return;
  const StoredTensor& stored = *FindStored(files_, base_prefix_, name);
  if (ScalarTypeOf(stored) == at::ScalarType::Undefined) {
    status_ = absl::UnimplementedError(fmt::format("{}: {} is not read", Shortened(stored.name), stored.type->name));
  } else {
    status_ = out.is_cpu() ? ReadHere(stored, out) : ReadStaged(stored, out);
  }
}

absl::Status SafetensorsSource::ReadHere(const StoredTensor& stored, const at::Tensor& out) {
  UseHugePages(Bytes(out));
  const bool same = out.scalar_type() == ScalarTypeOf(stored);
  for (uint64_t begin = 0; begin < stored.bytes; begin += kStepBytes) {
    RETURN_IF_ERROR(meter_->Check());
    const uint64_t count = std::min(kStepBytes, stored.bytes - begin);
    RETURN_IF_ERROR(same ? files_.Read(stored, begin, Bytes(out).subspan(begin, count))
                         : InParts(count, [&](uint64_t first, uint64_t last) {
                             return ReadConverted(stored, begin + first, begin + last, out);
                           }));
    meter_->Advance(static_cast<int64_t>(count));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsSource::ReadConverted(const StoredTensor& stored, uint64_t begin, uint64_t end,
                                              const at::Tensor& out) const {
  const at::ScalarType type = ScalarTypeOf(stored);
  std::vector<std::byte> buffer(std::min(kConvertedBytes, end - begin));
  for (; begin < end; begin += buffer.size()) {
    const auto piece = std::span(buffer).first(std::min<uint64_t>(buffer.size(), end - begin));
    RETURN_IF_ERROR(files_.Read(stored, begin, piece));
    std::byte* const to = Bytes(out).data() + begin / c10::elementSize(type) * c10::elementSize(out.scalar_type());
    RETURN_IF_ERROR(WithoutExceptions([&]() -> absl::Status {
      Convert(piece, type, to, out.scalar_type());
      return absl::OkStatus();
    }));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsSource::ReadStaged(const StoredTensor& stored, const at::Tensor& out) {
  if (ahead_.has_value() && ahead_->SkipTo(stored)) return ahead_->Fill(out);
  StagedReader alone(files_, {&stored}, out.device(), meter_);
  extra_bytes_ = std::max(extra_bytes_, alone.ring_bytes() + (ahead_.has_value() ? ahead_->ring_bytes() : 0));
  RETURN_IF_ERROR(alone.Fill(out));
  alone.Finish();
  return absl::OkStatus();
}

const absl::Status& SafetensorsSource::status() {
  if (ahead_.has_value()) ahead_->Finish();
  return status_;
}

}  // namespace automodeld
