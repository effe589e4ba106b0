#include "core/engine/model_runner_graphs.h"

#include <algorithm>

namespace automodeld {

namespace {

constexpr int64_t kMostRows = 256;  // above it a step takes longer on the GPU than its launches take on the host

}  // namespace

DecodeGraphs::DecodeGraphs(c10::Device device, int64_t max_rows, const std::function<Step(int64_t rows)>& prepare)
    : graphs_(MakeDeviceGraphs(device)) {
  if (graphs_ == nullptr) return;
  for (int64_t rows = 1; rows / 2 < std::min(max_rows, kMostRows); rows *= 2) {
    const Step step = prepare(rows);
    step.draw(step.forward());  // loads kernels and makes workspaces, which recording may not
    DecodeGraph& bucket = buckets_.emplace_back();
    bucket.rows = rows;
    bucket.inputs = step.inputs;
    bucket.forward = graphs_->Record([&] { bucket.logits = step.forward(); });
    bucket.draw = graphs_->Record([&] { bucket.tokens = step.draw(bucket.logits); });
  }
}

DecodeGraph* DecodeGraphs::Find(size_t rows) {
  const auto found = std::ranges::find_if(
      buckets_, [rows](const DecodeGraph& bucket) { return static_cast<size_t>(bucket.rows) >= rows; });
  return found == buckets_.end() ? nullptr : &*found;
}

}  // namespace automodeld
