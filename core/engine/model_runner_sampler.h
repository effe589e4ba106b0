// Turns the logits of one step into tokens: bias, penalties, minimum length, draw, log probabilities; and keeps what
// the slots' requests need from step to step. Part of the model runner.
//
//   FillColumns(rows, columns);  // into the pinned block of the step, which travels to the device as `params`
//   if (IsPlain(rows)) tokens = sampler.Draw(logits, params);  // may be captured in a CUDA graph
//   else result = sampler.Sample(logits, params, rows);
#ifndef CORE_ENGINE_MODEL_RUNNER_SAMPLER_H_
#define CORE_ENGINE_MODEL_RUNNER_SAMPLER_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <vector>

#include "core/engine/batch.h"
#include "kernels/ops.h"

namespace automodeld {

// A row of logits and the request it belongs to.
struct SampledRow {
  const BatchItem* item = nullptr;
  int64_t output = 0;  // index in StepOutput::items
  int64_t row = 0;     // of the step
};

// What a draw takes of each row, on the host: [rows] each.
struct SamplingColumns {
  std::span<float> temperature, top_p, min_p;
  std::span<int64_t> top_k, seeds, positions, slots;
};

// The same on the device. The slot of a row that only fills a graph's batch is max_num_seqs.
struct SamplingTensors {
  at::Tensor temperature, top_p, min_p;       // [rows] float32
  at::Tensor top_k, seeds, positions, slots;  // [rows] int64

  SamplingTensors Narrow(int64_t rows) const;  // the first ones
};

void FillColumns(const std::vector<SampledRow>& rows, const SamplingColumns& columns);

// No row asks for more than a draw: neither bias, penalties and a minimum length, nor log probabilities.
bool IsPlain(const std::vector<SampledRow>& rows);

// What sampling gave, on the device. Undefined but for `tokens` unless a row asked for log probabilities.
struct SampledTokens {
  at::Tensor tokens;        // [rows] int64
  at::Tensor logprobs;      // [rows that asked] float32
  at::Tensor top_logprobs;  // [rows that asked, k] float32, likeliest first; k is the most that one asked for
  at::Tensor top_tokens;    // [rows that asked, k] int64
};

class Sampler {
 public:
  Sampler(const Ops& ops, int max_num_seqs, int64_t vocab_size, at::Device device);

  // The first step of a request in a slot: counts its tokens anew, from prompt and completion so far.
  void ResetSlot(const BatchItem& item);

  // A plain step: the tokens [rows], which are also written into last_tokens(). logits: [rows, vocab]. Two kernels, no
  // look at the host's data: a captured Draw may be replayed with other logits and parameters in the same memory.
  at::Tensor Draw(const at::Tensor& logits, const SamplingTensors& params);

  // Any step. `rows` are those of logits and params.
  SampledTokens Sample(const at::Tensor& logits, const SamplingTensors& params, const std::vector<SampledRow>& rows);

  // By slot, on the device; one more for the rows that only fill a graph's batch. [max_num_seqs + 1] int64
  const at::Tensor& last_tokens() const { return last_tokens_; }

 private:
  // Numbers of both types for the device, in pinned memory.
  struct Parcel {
    at::Tensor longs, floats;  // int64, float32
  };
  Parcel MakeParcel(int64_t num_longs, int64_t num_floats) const;
  Parcel Send(const Parcel& host) const;

  int64_t AddCountRow();  // of counts_, all zero
  // Float32 logits as the rows' requests want them; count_rows: [rows], the rows of counts_ as the ops want them.
  at::Tensor Adjust(const at::Tensor& logits, const std::vector<SampledRow>& rows, at::Tensor& count_rows) const;

  const Ops& ops_;
  int64_t vocab_size_;
  at::Device device_;
  at::Tensor last_tokens_;
  at::Tensor counts_;                // [capacity, vocab] int32, as adjust_logits'; undefined while no slot needs it
  std::vector<int64_t> count_rows_;  // by slot: of counts_; -1: without penalties
  std::vector<int64_t> free_rows_;   // of counts_
};

}  // namespace automodeld

#endif  // CORE_ENGINE_MODEL_RUNNER_SAMPLER_H_
