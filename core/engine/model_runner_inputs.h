// Packs a batch into the tensors of one step. Part of the model runner.
#ifndef CORE_ENGINE_MODEL_RUNNER_INPUTS_H_
#define CORE_ENGINE_MODEL_RUNNER_INPUTS_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "core/engine/batch.h"
#include "core/engine/model_runner_sampler.h"
#include "core/engine/model_runner_upload.h"
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

// Rows of a step's segments, padding included. Padding is a token 0 at position 0, of the scratch page where there are
// pages; of decode rows, in slot 0. Only a batch of one segment may have any.
struct StepRows {
  int64_t decode = 0;   // at least batch.decode.size()
  int64_t prompts = 0;  // of a recorded step of prompts or ragged items, at least their tokens; else 0
};

// Host vectors are kept from step to step, so that packing allocates nothing on the host once warm.
class InputPacker {
 public:
  // ragged: no item has pages
  explicit InputPacker(int page_size, bool ragged = false) : page_size_(page_size), ragged_(ragged) {}

  void Add(const Batch& batch, const StepRows& rows, StepUpload& upload);
  // After the upload was sent. last_tokens: [slots] int64 on the device. Fills token_ids, last_tokens, positions and,
  // if there are pages, kv_slots.
  Inputs Get(const StepUpload& upload, const at::Tensor& last_tokens) const;
  // The sequences of the same batch.
  AttentionStep Sequences(const Batch& batch, const StepRows& rows) const;

 private:
  void PackItem(const BatchItem& item);
  void Pad(int64_t decode_rows, int64_t prompt_rows);

  int page_size_;
  bool ragged_;
  std::vector<int64_t> positions_;
  std::vector<int64_t> kv_slots_;
  std::vector<int64_t> token_ids_;  // of decode rows -1 - slot
  StepUpload::Column positions_column_ = 0, kv_slots_column_ = 0, token_ids_column_ = 0;
};

// The parameters of a step's draws, on their way to the device.
class SamplingPacker {
 public:
  // num_rows: at least rows.size(). Those that are too many are greedy, and their tokens go to padding_slot.
  void Add(const std::vector<SampledRow>& rows, size_t num_rows, int64_t padding_slot, StepUpload& upload);
  // After the upload was sent.
  SamplingTensors Get(const StepUpload& upload) const;

 private:
  std::vector<float> temperature_, top_p_, min_p_;
  std::vector<int64_t> top_k_, seeds_, positions_, slots_;
  std::vector<StepUpload::Column> columns_;  // in this order
};

}  // namespace automodeld

#endif  // CORE_ENGINE_MODEL_RUNNER_INPUTS_H_
