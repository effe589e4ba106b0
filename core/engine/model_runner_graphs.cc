#include "core/engine/model_runner_graphs.h"

#include <algorithm>

namespace automodeld {

namespace {

constexpr int64_t kMostDecodeRows = 256;  // above it a step takes longer on the GPU than its launches take on the host
constexpr int64_t kPromptRows[] = {32, 64, 128, 192, 256, 384, 512};

template <typename Graph>
const Graph* Find(const std::vector<Graph>& graphs, int64_t rows) {
  const auto found = std::ranges::find_if(graphs, [rows](const Graph& graph) { return graph.rows >= rows; });
  return found == graphs.end() ? nullptr : &*found;
}

}  // namespace

// Each step runs once before it is recorded: that loads kernels and makes workspaces, which recording may not.
void StepGraphs::RecordDecode(int64_t max_rows, const std::function<DecodeStep(int64_t rows)>& prepare) {
  if (graphs_ == nullptr) return;
  for (int64_t rows = 1; rows / 2 < std::min(max_rows, kMostDecodeRows); rows *= 2) {
    const DecodeStep step = prepare(rows);
    step.draw(step.forward());
    DecodeGraph& graph = decode_.emplace_back();
    graph.rows = rows;
    graph.inputs = step.inputs;
    graph.step = graphs_->Record([&] {
      graph.logits = step.forward();
      graph.tokens = step.draw(graph.logits);
    });
  }
}

void StepGraphs::RecordPrompts(int64_t max_rows, const std::function<PromptStep(int64_t rows)>& prepare) {
  if (graphs_ == nullptr) return;
  for (const int64_t rows : kPromptRows) {
    if (rows > max_rows) return;
    const PromptStep step = prepare(rows);
    step.forward();
    PromptGraph& graph = prompts_.emplace_back();
    graph.rows = rows;
    graph.inputs = step.inputs;
    graph.forward = graphs_->Record([&] { graph.hidden = step.forward(); });
  }
}

const DecodeGraph* StepGraphs::FindDecode(int64_t rows) const { return Find(decode_, rows); }
const PromptGraph* StepGraphs::FindPrompts(int64_t rows) const { return Find(prompts_, rows); }

}  // namespace automodeld
