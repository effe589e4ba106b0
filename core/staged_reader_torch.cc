#include "core/staged_reader_torch.h"

#include <ATen/DeviceAccelerator.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "core/status.h"

namespace automodeld {

namespace {

constexpr uint64_t kPieceBytes = 4 << 20;  // large enough for a copy's overhead, small enough for the CPU's caches
constexpr size_t kMostSlots = 16;

std::vector<ReadAhead::Piece> PiecesOf(const std::vector<const StoredTensor*>& tensors) {
  std::vector<ReadAhead::Piece> pieces;
  for (const StoredTensor* tensor : tensors) {
    for (uint64_t offset = 0; offset < tensor->bytes; offset += kPieceBytes) {
      pieces.push_back({tensor, offset, std::min(kPieceBytes, tensor->bytes - offset)});
    }
  }
  return pieces;
}

// A ring for `pieces`: no more and no larger slots than they can use.
at::Tensor MakeRing(const std::vector<ReadAhead::Piece>& pieces, bool pinned) {
  const size_t slots = std::clamp<size_t>(pieces.size(), 1, kMostSlots);
  const bool is_small = slots == 1 && !pieces.empty();
  const size_t bytes = is_small ? pieces[0].bytes : slots * kPieceBytes;
  return at::empty({static_cast<int64_t>(bytes)}, at::TensorOptions(at::kByte).pinned_memory(pinned));
}

std::span<std::byte> Bytes(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()};
}

}  // namespace

at::ScalarType ScalarTypeOf(const StoredTensor& stored) {
  const std::string_view name = stored.type->name;
  if (name == "F64") return at::kDouble;
  if (name == "F32") return at::kFloat;
  if (name == "F16") return at::kHalf;
  if (name == "BF16") return at::kBFloat16;
  if (name == "F8_E4M3") return at::kFloat8_e4m3fn;
  if (name == "F8_E5M2") return at::kFloat8_e5m2;
  return at::ScalarType::Undefined;
}

StagedReader::StagedReader(const Safetensors& files, std::vector<const StoredTensor*> tensors, at::Device device,
                           LoadMeter* meter)
    : tensors_(std::move(tensors)), device_(device), meter_(meter) {
  std::vector<ReadAhead::Piece> pieces = PiecesOf(tensors_);
  ring_ = MakeRing(pieces, !device.is_cpu());
  ahead_.emplace(files, std::move(pieces), Bytes(ring_), std::min<size_t>(kPieceBytes, ring_.nbytes()));
}

bool StagedReader::SkipTo(const StoredTensor& tensor) {
  const auto found = std::find(tensors_.begin() + static_cast<ptrdiff_t>(next_), tensors_.end(), &tensor);
  if (found == tensors_.end()) return false;
  for (; tensors_[next_] != &tensor; ++next_) {
    Finish();  // pieces are released in order
    for (uint64_t offset = 0; offset < tensors_[next_]->bytes; offset += kPieceBytes) {
      static_cast<void>(ahead_->Next());  // whoever wants it after all is told
      ahead_->Release();
    }
  }
  return true;
}

absl::Status StagedReader::Fill(const at::Tensor& out) {
  const StoredTensor& stored = *tensors_[next_++];
  const at::Tensor flat = out.view(-1);
  for (int64_t first = 0; first < flat.numel();) {
    RETURN_IF_ERROR(meter_->Check());
    ASSIGN_OR_RETURN(const std::span<std::byte> bytes, ahead_->Next());
    const at::Tensor piece = Numbers(bytes, ScalarTypeOf(stored));
    flat.narrow(0, first, piece.numel()).copy_(piece, /*non_blocking=*/true);  // converts on the device
    ReleaseWhenCopied();
    first += piece.numel();
    meter_->Advance(static_cast<int64_t>(bytes.size()));
  }
  return absl::OkStatus();
}

// A part of the ring's own tensor, by which libtorch knows that it is pinned.
at::Tensor StagedReader::Numbers(std::span<std::byte> bytes, at::ScalarType type) const {
  const auto begin = bytes.data() - static_cast<const std::byte*>(ring_.const_data_ptr());
  return ring_.narrow(0, begin, static_cast<int64_t>(bytes.size())).view(type);
}

void StagedReader::ReleaseWhenCopied() {
  if (device_.is_cpu()) return ahead_->Release();
  copying_.emplace_back(device_.type()).record(at::accelerator::getCurrentStream(device_.index()));
  if (copying_.size() > kMostSlots / 2) ReleaseOldest();  // the other half is being read meanwhile
}

void StagedReader::ReleaseOldest() {
  copying_.front().synchronize();
  copying_.pop_front();
  ahead_->Release();
}

void StagedReader::Finish() {
  while (!copying_.empty()) ReleaseOldest();
}

}  // namespace automodeld
