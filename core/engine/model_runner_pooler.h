// Pools the vectors of a step's embeddings, all items in one operation and one copy. Part of the model runner.
//
//   pooler.Add(batch, upload);                                  // before the upload is sent
//   const PooledItems pooled = pooler.Pool(hidden, upload);     // after Forward
#ifndef CORE_ENGINE_MODEL_RUNNER_POOLER_H_
#define CORE_ENGINE_MODEL_RUNNER_POOLER_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "core/engine/batch.h"
#include "core/engine/model_runner_upload.h"
#include "kernels/ops.h"
#include "kernels/pool_rows.h"

namespace automodeld {

// What a step pools.
struct PooledItems {
  struct Row {
    int64_t row = 0;     // of `values`
    int64_t output = 0;  // of the batch's results
    int64_t dimensions = 0;
  };

  at::Tensor values;      // [items, hidden] float32 on the device; undefined where no vector is complete
  std::vector<Row> rows;  // vectors that are complete
};

class Pooler {
 public:
  // hidden_size: of the model's vectors.
  Pooler(const Ops& ops, int max_num_seqs, int64_t hidden_size, at::TensorOptions options);

  // The table of the batch's embeddings.
  void Add(const Batch& batch, StepUpload& upload);
  // Of the same batch, whose rows are `hidden` [tokens, hidden]. Sequences that go on are remembered by their slots.
  PooledItems Pool(const at::Tensor& hidden, const StepUpload& upload);

 private:
  void AddItem(const BatchItem& item, int64_t first_row, int64_t output);

  const Ops& ops_;
  const int64_t num_slots_;
  const int64_t hidden_size_;
  const at::TensorOptions options_;  // of partial_
  at::Tensor partial_;               // [slots, hidden] float32; made when the first prompt comes in chunks
  std::vector<PoolItem> items_;
  std::vector<PooledItems::Row> rows_;
  StepUpload::Column column_ = 0;
};

}  // namespace automodeld

#endif  // CORE_ENGINE_MODEL_RUNNER_POOLER_H_
