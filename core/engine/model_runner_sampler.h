// Turns the logits of one step into tokens: bias, penalties, minimum length, draw, log probabilities; and keeps what
// the slots' requests need from step to step. Part of the model runner.
#ifndef CORE_ENGINE_MODEL_RUNNER_SAMPLER_H_
#define CORE_ENGINE_MODEL_RUNNER_SAMPLER_H_

#include <ATen/ATen.h>

#include <cstdint>
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

// What sampling gave, on the device.
struct SampledTokens {
  at::Tensor tokens;        // [rows] int64
  at::Tensor logprobs;      // [rows] float32; undefined unless a row asked
  at::Tensor top_logprobs;  // [rows, k] float32, likeliest first; undefined unless a row asked
  at::Tensor top_tokens;    // [rows, k] int64
};

class Sampler {
 public:
  Sampler(const Ops& ops, int max_num_seqs, int64_t vocab_size, at::Device device);

  // The first step of a request in a slot: rebuilds its counts from prompt and completion so far.
  void ResetSlot(const BatchItem& item);

  // logits: [rows, vocab], may be changed. Writes each token into last_tokens() at its slot.
  SampledTokens Sample(at::Tensor logits, const std::vector<SampledRow>& rows);

  const at::Tensor& last_tokens() const { return last_tokens_; }  // [slots] int64

 private:
  struct Counts {              // of a request with penalties, else undefined
    at::Tensor in_prompt;      // [vocab] bool
    at::Tensor in_completion;  // [vocab] int32: how often
  };

  void Adjust(at::Tensor logits, const BatchItem& item);
  void Penalise(at::Tensor logits, const SamplingParams& params, const Counts& counts) const;
  at::Tensor Draw(const at::Tensor& logits, const std::vector<SampledRow>& rows) const;
  at::Tensor ToDevice(const at::Tensor& host) const;

  const Ops& ops_;
  int64_t vocab_size_;
  at::Device device_;
  at::Tensor last_tokens_;
  std::vector<Counts> counts_;  // by slot
};

}  // namespace automodeld

#endif  // CORE_ENGINE_MODEL_RUNNER_SAMPLER_H_
