// Packs a batch into the tensors of one step. Part of the model runner.
#ifndef CORE_ENGINE_MODEL_RUNNER_INPUTS_H_
#define CORE_ENGINE_MODEL_RUNNER_INPUTS_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "core/engine/batch.h"
#include "core/layers/inputs.h"
#include "kernels/attention.h"

namespace automodeld {

// Calls visit(item, first_row) for every item in the batch's order.
template <typename Visit>
void ForEachItem(const Batch& batch, Visit visit) {
  int64_t row = 0;
  for (const auto* segment : {&batch.decode, &batch.prefill, &batch.ragged}) {
    for (const BatchItem& item : *segment) {
      visit(item, row);
      row += item.num_tokens;
    }
  }
}

// Host vectors are kept from step to step, so that packing allocates nothing on the host once warm.
class InputPacker {
 public:
  InputPacker(int page_size, at::Device device) : page_size_(page_size), device_(device) {}

  // last_tokens: [slots] int64 on the device. Fills token_ids, positions and, if there are pages, kv_slots.
  Inputs Pack(const Batch& batch, const at::Tensor& last_tokens);
  // The sequences of the batch just packed.
  AttentionStep Sequences(const Batch& batch) const;

 private:
  at::Tensor ToDevice(const std::vector<int64_t>& values) const;
  void PackItem(const BatchItem& item);

  int page_size_;
  at::Device device_;
  std::vector<int64_t> positions_;
  std::vector<int64_t> kv_slots_;
  std::vector<int64_t> token_ids_;     // of prefill and ragged rows
  std::vector<int64_t> decode_slots_;  // of decode rows
};

}  // namespace automodeld

#endif  // CORE_ENGINE_MODEL_RUNNER_INPUTS_H_
