// Decode steps as CUDA graphs: one per bucket of rows, each from the slots' last tokens to logits. Part of the model
// runner.
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
  at::Tensor inputs;   // uint8: where the step's upload goes
  at::Tensor results;  // what `work` gave; overwritten at each launch of any of the graphs
  std::unique_ptr<DeviceGraph> graph;
};

class DecodeGraphs {
 public:
  // A step that can be recorded: its inputs have been sent to `inputs`, and launching `work` gives its results.
  struct Step {
    at::Tensor inputs;
    std::function<at::Tensor()> work;
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
