#include "core/engine/model_runner_upload.h"

#include <cstring>

#include "kernels/host_copy.h"

namespace automodeld {

namespace {

constexpr size_t kAlignment = 16;

}  // namespace

void StepUpload::Clear() {
  host_.clear();
  places_.clear();
}

StepUpload::Column StepUpload::Append(const void* data, size_t count, at::ScalarType type) {
  const size_t size = count * c10::elementSize(type);
  const size_t offset = host_.size();
  places_.push_back({offset, size, type});
  host_.resize(offset + (size + kAlignment - 1) / kAlignment * kAlignment);
  if (size > 0) std::memcpy(host_.data() + offset, data, size);
  return places_.size() - 1;
}

void StepUpload::Send(const at::Tensor& to) {
  const at::TensorOptions options(at::kByte);
  at::Tensor host = at::empty({bytes()}, options.pinned_memory(!device_.is_cpu()));
  std::memcpy(host.mutable_data_ptr(), host_.data(), host_.size());
  if (device_.is_cpu()) {
    sent_ = host;
    return;
  }
  sent_ = to.defined() ? to.narrow(0, 0, bytes()) : at::empty({bytes()}, options.device(device_));
  QueueCopy(host, sent_);
}

at::Tensor StepUpload::Get(Column column) const {
  const Place& place = places_[column];
  return sent_.narrow(0, static_cast<int64_t>(place.offset), static_cast<int64_t>(place.size)).view(place.type);
}

}  // namespace automodeld
