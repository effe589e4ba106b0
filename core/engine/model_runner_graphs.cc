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
    step.work();  // loads kernels and makes workspaces, which recording may not
    DecodeGraph bucket{.rows = rows, .inputs = step.inputs, .results = {}, .graph = nullptr};
    bucket.graph = graphs_->Record([&] { bucket.results = step.work(); });
    buckets_.push_back(std::move(bucket));
  }
}

DecodeGraph* DecodeGraphs::Find(size_t rows) {
  const auto found = std::ranges::find_if(
      buckets_, [rows](const DecodeGraph& bucket) { return static_cast<size_t>(bucket.rows) >= rows; });
  return found == buckets_.end() ? nullptr : &*found;
}

}  // namespace automodeld
