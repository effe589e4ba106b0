// Tensors of a checkpoint, one after the other, into memory of any floating type on any device: read ahead into a small
// ring of buffers, converted and copied from there. For a GPU the ring is pinned and its copies overlap the reading.
//
//   StagedReader reader(files, {embed, norm, head}, device, &meter);   // reads ahead from now on
//   if (reader.SkipTo(norm)) RETURN_IF_ERROR(reader.Fill(out));        // `embed` was not wanted after all
//   reader.Finish();                                                   // all copies are done
//
// Pinning costs 0.74 s per GiB, so the ring is 64 MiB at most; libtorch keeps pinned memory for the next load.
// Used by the loading thread only.
#ifndef CORE_STAGED_READER_TORCH_H_
#define CORE_STAGED_READER_TORCH_H_

#include <ATen/ATen.h>
#include <absl/status/status.h>
#include <c10/core/Event.h>

#include <deque>
#include <optional>
#include <vector>

#include "core/load_meter.h"
#include "core/read_ahead.h"
#include "core/safetensors.h"

namespace automodeld {

// The type of libtorch in which a stored tensor's numbers are; Undefined where it has none.
at::ScalarType ScalarTypeOf(const StoredTensor& stored);

class StagedReader {
 public:
  // `tensors`: none empty, all of types that libtorch has.
  StagedReader(const Safetensors& files, std::vector<const StoredTensor*> tensors, at::Device device, LoadMeter* meter);

  // Makes `tensor` the next one, dropping those before it. False: it has passed, or was never to come.
  bool SkipTo(const StoredTensor& tensor);
  // Fills `out` (contiguous, on the device, as many elements) with the next tensor. On a GPU it has its numbers once
  // the current stream gets there. CANCELLED between two pieces of 4 MiB, or the files' errors; after one only Finish
  // may be called.
  absl::Status Fill(const at::Tensor& out);
  // Waits for the device.
  void Finish();

  int64_t ring_bytes() const { return static_cast<int64_t>(ring_.nbytes()); }

 private:
  at::Tensor Numbers(std::span<std::byte> bytes, at::ScalarType type) const;
  void ReleaseWhenCopied();
  void ReleaseOldest();

  std::vector<const StoredTensor*> tensors_;
  size_t next_ = 0;  // of tensors_
  at::Device device_;
  LoadMeter* meter_;
  at::Tensor ring_;
  std::deque<c10::Event> copying_;  // one per piece on its way to the device
  std::optional<ReadAhead> ahead_;
};

}  // namespace automodeld

#endif  // CORE_STAGED_READER_TORCH_H_
