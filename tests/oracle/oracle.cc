// Runs requests through a loaded model's engine and prints what came out, for tests/oracle/*.py to compare with
// transformers. Everything below the RPCs is the real thing: factory, scheduler, pages, runner, delivery.
//
//   oracle < job.json > result.json
//   job:    {"load": {"path", "torch_dtype", "attn_implementation", "use_liger_kernel", "device", "engine": {...}},
//            "requests": [{"ids": [...], "max_tokens", "temperature", "seed", ..., "logprobs"} | {"ids", "pooling"}],
//            "together": true}          false: one after the other
//   result: {"report": {...}, "answers": [{"ids": [...], "logprobs": [{"id": logprob, ...}, ...], "embedding": [...],
//            "error": "..."}], "preemptions": 0}
#include <condition_variable>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/auto_model.h"
#include "core/engine/engine.h"
#include "core/metrics.h"

namespace automodeld {
namespace {

using nlohmann::json;

class CollectingSink final : public Sink {
 public:
  void OnTokens(int, Delta delta) override {
    const std::scoped_lock lock(mutex_);
    for (TokenId id : delta.token_ids) answer_["ids"].push_back(id);
    for (const TokenLogprob& logprob : delta.logprobs) {
      json top = json::object();
      for (const auto& [id, value] : logprob.top) top[std::to_string(id)] = value;
      answer_["logprobs"].push_back(top);
    }
  }
  void OnEmbedding(int, std::vector<float> values) override {
    const std::scoped_lock lock(mutex_);
    answer_["embedding"] = values;
  }
  void OnFinish(int, const absl::Status& status, FinishReason, const RequestUsage&) override {
    const std::scoped_lock lock(mutex_);
    if (!status.ok()) answer_["error"] = status.ToString();
    done_ = true;
    changed_.notify_all();
  }
  json Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    return answer_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  json answer_ = json::object();
};

LoadOptions ReadLoad(const json& job) {
  LoadOptions options;
  options.model = "oracle";
  options.path = job.value("path", "");
  options.config_json = job.value("config_json", "");
  options.seed = job.value("seed", 0ULL);
  options.torch_dtype = job.value("torch_dtype", "auto");
  options.attn_implementation = job.value("attn_implementation", "flash_attention_2");
  options.use_liger_kernel = job.value("use_liger_kernel", true);
  options.use_sdpa_patching = job.value("use_sdpa_patching", true);
  options.device = job.value("device", "auto");
  const json engine = job.value("engine", json::object());
  options.engine.max_num_batched_tokens = engine.value("max_num_batched_tokens", 0);
  options.engine.max_num_seqs = engine.value("max_num_seqs", 0);
  options.engine.max_model_len = engine.value("max_model_len", 0);
  options.engine.kv_cache_bytes = engine.value("kv_cache_bytes", int64_t{0});
  return options;
}

Pooling ReadPooling(const std::string& name) {
  const std::map<std::string, Pooling> names = {{"mean", Pooling::kMean},
                                                {"cls", Pooling::kCls},
                                                {"max", Pooling::kMax},
                                                {"lasttoken", Pooling::kLastToken},
                                                {"weightedmean", Pooling::kWeightedMean},
                                                {"mean_sqrt_len_tokens", Pooling::kMeanSqrtLen}};
  return names.at(name);
}

std::shared_ptr<Request> ReadRequest(const json& r) {
  auto request = std::make_shared<Request>();
  request->prompt = r.at("ids").get<std::vector<TokenId>>();
  request->sink = std::make_shared<CollectingSink>();
  if (r.contains("pooling")) {
    request->kind = Request::Kind::kEmbed;
    request->embed = {.pooling = ReadPooling(r["pooling"]),
                      .normalize = r.value("normalize", true),
                      .dimensions = r.value("dimensions", 0)};
    return request;
  }
  SamplingParams& s = request->sampling;
  s.max_tokens = r.value("max_tokens", 16);
  s.min_tokens = r.value("min_tokens", 0);
  s.temperature = r.value("temperature", 0.0F);
  s.top_k = r.value("top_k", 0);
  s.top_p = r.value("top_p", 1.0F);
  s.min_p = r.value("min_p", 0.0F);
  s.repetition_penalty = r.value("repetition_penalty", 1.0F);
  s.presence_penalty = r.value("presence_penalty", 0.0F);
  s.frequency_penalty = r.value("frequency_penalty", 0.0F);
  s.seed = r.value("seed", 0ULL);
  s.logprobs = r.value("logprobs", -1);
  s.stop_token_ids = r.value("stop_token_ids", std::vector<TokenId>{});
  return request;
}

json WaitFor(const Request& request) { return static_cast<CollectingSink&>(*request.sink).Wait(); }

json Answer(Engine& engine, const json& job) {
  json answers = json::array();
  std::vector<std::shared_ptr<Request>> running;
  for (const json& r : job.at("requests")) {
    auto request = ReadRequest(r);
    if (absl::Status status = engine.Submit(request); !status.ok()) throw std::runtime_error(status.ToString());
    running.push_back(request);
    if (!job.value("together", true)) WaitFor(*request);
  }
  for (const auto& request : running) answers.push_back(WaitFor(*request));
  return answers;
}

int Main() {
  const json job = json::parse(std::cin);
  const LoadOptions options = ReadLoad(job.at("load"));
  auto model = AutoModel::Load(options, LoadContext{});
  if (!model.ok()) throw std::runtime_error(model.status().ToString());
  Metrics metrics;
  json result;
  result["report"] = {{"attention_backend", model->report.attention_backend}, {"dtype", model->report.info.dtype}};
  Engine engine("oracle", std::move(model->runner), nullptr, EngineOptions{.max_queue_size = 4096},
                metrics.ForModel("oracle"));
  result["answers"] = Answer(engine, job);
  result["preemptions"] = metrics.ForModel("oracle")->preemptions.Value();
  std::cout << result << "\n";
  return 0;
}

}  // namespace
}  // namespace automodeld

int main() {
  try {
    return automodeld::Main();
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
