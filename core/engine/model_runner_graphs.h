// Decode steps as CUDA graphs, for buckets of rows: one from the slots' last tokens to logits, and one from these to
// the next tokens, for steps whose rows ask for no more than a draw. Part of the model runner.
//
//   DecodeGraphs graphs(*MakeDeviceGraphs(device), 256, record);
//   if (const DecodeGraph* graph = graphs.Find(5)) …   // of 8 rows: three are padding
#ifndef CORE_ENGINE_MODEL_RUNNER_GRAPHS_H_
#define CORE_ENGINE_MODEL_RUNNER_GRAPHS_H_

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <vector>

#include "kernels/device_graph.h"

namespace automodeld {

// A step of so many rows that was recorded.
struct DecodeGraph {
  int64_t rows = 0;
  at::Tensor inputs;  // uint8: where the step's upload goes
  at::Tensor logits;  // [rows, vocab], of `forward`; overwritten when any of the graphs is launched
  at::Tensor tokens;  // [rows] int64, of `draw`; likewise
  std::unique_ptr<DeviceGraph> forward, draw;
};

class DecodeGraphs {
 public:
  // A step that can be recorded: its inputs have been sent to `inputs`, forward gives logits, and draw tokens.
  struct Step {
    at::Tensor inputs;
    std::function<at::Tensor()> forward;
    std::function<at::Tensor(const at::Tensor& logits)> draw;
  };

  DecodeGraphs() = default;
  // Records steps of 1, 2, 4, … rows, up to max_rows. `prepare` makes the step of so many rows, all of them padding.
  // Throws c10::Error where something cannot be recorded.
  DecodeGraphs(c10::Device device, int64_t max_rows, const std::function<Step(int64_t rows)>& prepare);

  // The smallest that holds so many rows; null where there is none.
  DecodeGraph* Find(size_t rows);
  const std::vector<DecodeGraph>& all() const { return buckets_; }

 private:
  std::unique_ptr<DeviceGraphs> graphs_;
  std::vector<DecodeGraph> buckets_;  // by rows
};

}  // namespace automodeld

#endif  // CORE_ENGINE_MODEL_RUNNER_GRAPHS_H_
