// Steps as CUDA graphs, in buckets of rows. Decode: from the slots' last tokens over logits to the next tokens.
// Prompts, or an encoder's inputs: from tokens to hidden states, up to where a step takes longer on the GPU than its
// launches take on the host. Part of the model runner.
//
//   StepGraphs graphs(device);
//   graphs.RecordDecode(256, prepare);
//   if (const DecodeGraph* graph = graphs.FindDecode(5)) …   // of 8 rows: three are padding
#ifndef CORE_ENGINE_MODEL_RUNNER_GRAPHS_H_
#define CORE_ENGINE_MODEL_RUNNER_GRAPHS_H_

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <vector>

#include "kernels/device_graph.h"

namespace automodeld {

// A step of so many rows that was recorded. What it gives is overwritten when any of the graphs is launched.
struct DecodeGraph {
  int64_t rows = 0;
  at::Tensor inputs;  // uint8: where the step's upload goes
  at::Tensor logits;  // [rows, vocab]
  at::Tensor tokens;  // [rows] int64
  std::unique_ptr<DeviceGraph> step;
};
struct PromptGraph {
  int64_t rows = 0;
  at::Tensor inputs;
  at::Tensor hidden;  // [rows, hidden_size]
  std::unique_ptr<DeviceGraph> forward;
};

class StepGraphs {
 public:
  // Steps that can be recorded: their inputs have been sent to `inputs`.
  struct DecodeStep {
    at::Tensor inputs;
    std::function<at::Tensor()> forward;                       // logits
    std::function<at::Tensor(const at::Tensor& logits)> draw;  // tokens
  };
  struct PromptStep {
    at::Tensor inputs;
    std::function<at::Tensor()> forward;  // hidden states
  };

  StepGraphs() = default;
  explicit StepGraphs(c10::Device device) : graphs_(MakeDeviceGraphs(device)) {}

  // Record steps of up to max_rows. `prepare` makes the step of so many rows, all of them padding. Throw c10::Error
  // where something cannot be recorded.
  void RecordDecode(int64_t max_rows, const std::function<DecodeStep(int64_t rows)>& prepare);
  void RecordPrompts(int64_t max_rows, const std::function<PromptStep(int64_t rows)>& prepare);

  // The smallest that holds so many rows; null where there is none.
  const DecodeGraph* FindDecode(int64_t rows) const;
  const PromptGraph* FindPrompts(int64_t rows) const;
  const std::vector<DecodeGraph>& decode() const { return decode_; }
  const std::vector<PromptGraph>& prompts() const { return prompts_; }

 private:
  std::unique_ptr<DeviceGraphs> graphs_;
  std::vector<DecodeGraph> decode_;   // by rows
  std::vector<PromptGraph> prompts_;  // by rows
};

}  // namespace automodeld

#endif  // CORE_ENGINE_MODEL_RUNNER_GRAPHS_H_
