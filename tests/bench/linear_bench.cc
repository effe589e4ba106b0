// The linear layers of a model's step, one after the other in a CUDA graph, with distinct weights: our road and the
// library's. Random weights; needs a GPU with 25 GB.
//
//   linear_bench [llama-fp8|llama-bf16|qwen-bf16 ...] [rows ...]
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels/linear.h"

namespace automodeld {
namespace {

struct Model {
  std::string name;
  bool fp8;  // but for lm_head
  int layers;
  std::vector<std::pair<int64_t, int64_t>> linears;  // [out, in]
  std::pair<int64_t, int64_t> head;
};

const std::vector<Model> kModels = {
    {"llama-fp8", true, 32, {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}}, {128256, 4096}},
    {"llama-bf16", false, 32, {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}}, {128256, 4096}},
    {"qwen-bf16", false, 28, {{4096, 1024}, {1024, 2048}, {6144, 1024}, {1024, 3072}}, {151936, 1024}}};

const at::TensorOptions kGpu = at::TensorOptions().device(at::kCUDA, 0);

LinearWeight RandomWeight(int64_t out, int64_t in, bool fp8) {
  if (!fp8) return at::empty({out, in}, kGpu.dtype(at::kBFloat16)).normal_();
  const at::Tensor codes = at::empty({out, in}, kGpu.dtype(at::kByte)).random_(0, 0x60);
  return Fp8Weight{.values = codes.view(at::kFloat8_e4m3fn), .scale = at::rand({out, 1}, kGpu.dtype(at::kFloat))};
}

// The median time of a graph of what run launches, in ms.
double Time(const std::function<void()>& run) {
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
  run();
  at::cuda::device_synchronize();
  at::cuda::CUDAGraph graph;
  graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
  run();
  graph.capture_end();
  std::vector<float> times;
  for (int i = 0; i < 9; ++i) {
    at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
    begin.record();
    graph.replay();
    end.record();
    end.synchronize();
    times.push_back(begin.elapsed_time(end));
  }
  std::nth_element(times.begin(), times.begin() + 4, times.end());
  return times[4];
}

class Chain {
 public:
  Chain(const Model& model, int64_t rows) : rows_(rows), model_(model) {
    for (const auto& [out, in] : model.linears) inputs_.push_back(Input(in, model.fp8));
    head_ = Input(model.head.second, false);
    between_ = at::zeros({rows, 4096}, kGpu.dtype(at::kBFloat16));
  }

  // `multiply` for each product; `between`: a small kernel of ATen's before each.
  double Milliseconds(const std::vector<LinearWeight>& weights, const LinearWeight& head, bool between,
                      const std::function<void(const LinearInput&, const LinearWeight&)>& multiply) {
    return Time([&] {
      for (size_t i = 0; i < weights.size(); ++i) {
        if (between) between_.add_(1);
        multiply(inputs_[i % inputs_.size()], weights[i]);
      }
      multiply(head_, head);
    });
  }

 private:
  LinearInput Input(int64_t in, bool fp8) {
    const at::Tensor x = at::randn({rows_, in}, kGpu.dtype(at::kBFloat16));
    return fp8 ? QuantizeRows(x) : LinearInput(x);
  }

  int64_t rows_;
  const Model& model_;
  std::vector<LinearInput> inputs_;
  LinearInput head_ = at::Tensor(at::empty({0}));
  at::Tensor between_;
};

at::Tensor Library(const LinearInput& x, const LinearWeight& weight, bool scales) {
  if (const auto* plain = std::get_if<at::Tensor>(&weight)) return at::linear(x.values, *plain);
  static const at::Tensor one = at::ones({}, kGpu.dtype(at::kFloat));
  const auto& fp8 = std::get<Fp8Weight>(weight);
  return at::_scaled_mm(x.values, fp8.values.t(), scales ? x.scale : one, scales ? fp8.scale.t() : one, /*bias=*/{},
                        /*scale_result=*/{}, at::kBFloat16, /*use_fast_accum=*/true);
}

void Run(const Model& model, const std::vector<int64_t>& all_rows) {
  std::vector<LinearWeight> weights;
  for (int layer = 0; layer < model.layers; ++layer) {
    for (const auto& [out, in] : model.linears) weights.push_back(RandomWeight(out, in, model.fp8));
  }
  const LinearWeight head = RandomWeight(model.head.first, model.head.second, false);
  std::printf("%s, %zu products, ms: rows | ours, with a kernel between | library%s\n", model.name.c_str(),
              weights.size() + 1, model.fp8 ? " without scales, with a kernel between; with scales" : ", the same");
  for (const int64_t rows : all_rows) {
    Chain chain(model, rows);
    const auto ours = [](const LinearInput& x, const LinearWeight& w) { RunLinear(x, w); };
    const auto library = [](const LinearInput& x, const LinearWeight& w) { Library(x, w, false); };
    const auto scaled = [](const LinearInput& x, const LinearWeight& w) { Library(x, w, true); };
    std::printf("%4d | %.3f  %.3f | %.3f  %.3f", static_cast<int>(rows), chain.Milliseconds(weights, head, false, ours),
                chain.Milliseconds(weights, head, true, ours), chain.Milliseconds(weights, head, false, library),
                chain.Milliseconds(weights, head, true, library));
    if (model.fp8) std::printf("  %.3f", chain.Milliseconds(weights, head, false, scaled));
    std::printf("\n");
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace automodeld

int main(int argc, char** argv) {
  std::vector<std::string> names;
  std::vector<int64_t> rows;
  for (const std::string& argument : std::vector<std::string>(argv + 1, argv + argc)) {
    if (std::isdigit(static_cast<unsigned char>(argument[0])) != 0) {
      rows.push_back(std::stoll(argument));
    } else {
      names.push_back(argument);
    }
  }
  if (rows.empty()) rows = {1, 2, 4, 5, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512};
  for (const auto& model : automodeld::kModels) {
    if (names.empty() || std::find(names.begin(), names.end(), model.name) != names.end()) automodeld::Run(model, rows);
  }
  return 0;
}
