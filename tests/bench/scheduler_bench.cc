// What the scheduler costs per step: Next and Land together, without a runner. The goal is 50 µs with 256 sequences.
#include <benchmark/benchmark.h>

#include <memory>
#include <vector>

#include "core/engine/scheduler.h"

namespace automodeld {
namespace {

constexpr int kPromptTokens = 32;

RunnerLimits BenchLimits(int num_seqs, int look_ahead) {
  return {.max_model_len = 1 << 20,
          .max_num_seqs = num_seqs,
          .max_num_batched_tokens = 8192,
          .page_size = 16,
          .num_pages = 1 << 20,
          .look_ahead = look_ahead};
}

std::shared_ptr<Request> BenchRequest(int max_tokens) {
  auto request = std::make_shared<Request>();
  request->prompt.assign(kPromptTokens, 1);
  request->sampling.max_tokens = max_tokens;
  request->sampling.stop_token_ids = {2, 3};
  request->deadline = absl::UnixEpoch() + absl::Hours(1);
  return request;
}

StepOutput SameTokens(size_t num_items) {
  StepOutput output;
  output.items.resize(num_items);
  for (ItemOutput& item : output.items) item.token = 7;
  return output;
}

void Turn(Scheduler& scheduler, int look_ahead, StepOutput output) {
  benchmark::DoNotOptimize(scheduler.Next(absl::UnixEpoch()).size());
  if (scheduler.num_in_flight() > look_ahead) scheduler.Land(std::move(output), absl::UnixEpoch());
  scheduler.events().clear();
}

// range(0) sequences decode, range(1) requests wait for a slot, range(2) steps are launched ahead.
void SchedulerStep(benchmark::State& state) {
  const auto num_running = static_cast<int>(state.range(0));
  const auto look_ahead = static_cast<int>(state.range(2));
  Scheduler scheduler(BenchLimits(num_running, look_ahead));
  for (int64_t i = 0; i < num_running + state.range(1); ++i) scheduler.Add(BenchRequest(1 << 20));
  while (scheduler.num_running() < num_running || scheduler.num_in_flight() < look_ahead) {
    const size_t num_items = scheduler.Next(absl::UnixEpoch()).size();
    if (scheduler.num_in_flight() > look_ahead) scheduler.Land(SameTokens(num_items), absl::UnixEpoch());
    scheduler.events().clear();
  }
  for (auto _ : state) {
    state.PauseTiming();
    StepOutput output = SameTokens(static_cast<size_t>(num_running));
    state.ResumeTiming();
    Turn(scheduler, look_ahead, std::move(output));
  }
  state.SetItemsProcessed(state.iterations() * num_running);
}
BENCHMARK(SchedulerStep)
    ->ArgNames({"running", "waiting", "look_ahead"})
    ->Args({1, 0, 0})
    ->Args({64, 0, 0})
    ->Args({256, 0, 0})
    ->Args({256, 0, 1})
    ->Args({256, 512, 0})
    ->Args({256, 512, 1})
    ->Args({256, 4096, 0});

// A request from Add to its end: what coming and going costs beside the steps.
void SchedulerRequest(benchmark::State& state) {
  Scheduler scheduler(BenchLimits(256, 0));
  for (auto _ : state) {
    scheduler.Add(BenchRequest(1));
    Turn(scheduler, 0, SameTokens(1));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(SchedulerRequest);

}  // namespace
}  // namespace automodeld
