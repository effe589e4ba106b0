// Runs requests through a loaded model's engine and prints what came out, for tests/oracle/*.py to compare with
// transformers. Everything below the RPCs is the real thing: factory, scheduler, pages, runner, delivery.
//
//   oracle < job.json > result.json
//   job:    {"load": {"path" or "config_json", "torch_dtype", "attn_implementation", "use_liger_kernel", "device",
//                     "auto_class": "AUTO" or "EMBEDDING", "allow_unread_tensors", "check_only", "engine": {...},
//                     "fp8_config": {...}},
//            "requests": [{"ids": [...], "max_tokens", "temperature", "seed", ..., "logit_bias": [[id, bias], ...],
//                          "logprobs"} | {"ids", "embed": true, "pooling"}],   no pooling: the checkpoint's own
//            "together": true,          false: one after the other
//            "times": 1}                how often the model is loaded; the last one serves
//   result: {"report": {...}, "embedding": {...},
//            "answers": [{"ids": [...], "logprobs": [{"id": logprob, ...}, ...], "chosen": [logprob, ...],
//                         "embedding": [...], "finish": "stop" or "length", "error": "..."}],
//            "preemptions": 0}   only the report where check_only
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <condition_variable>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <span>
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
      answer_["chosen"].push_back(logprob.logprob);
    }
  }
  void OnEmbedding(int, std::vector<float> values) override {
    const std::scoped_lock lock(mutex_);
    answer_["embedding"] = values;
  }
  void OnFinish(int, const absl::Status& status, FinishReason reason, const RequestUsage&) override {
    const std::scoped_lock lock(mutex_);
    answer_["finish"] = reason == FinishReason::kLength ? "length" : "stop";
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

Fp8Config ReadFp8(const json& job) {
  return {.recipe_name = job.value("recipe_name", ""),
          .filter_fqns = job.value("filter_fqns", std::vector<std::string>{}),
          .emulate = job.value("emulate", false),
          .include_lm_head = job.value("include_lm_head", false)};
}

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
  if (job.value("auto_class", "AUTO") == "EMBEDDING") options.auto_class = AutoClass::kEmbedding;
  options.allow_unread_tensors = job.value("allow_unread_tensors", false);
  options.check_only = job.value("check_only", false);
  if (job.contains("fp8_config")) options.fp8_config = ReadFp8(job["fp8_config"]);
  const json engine = job.value("engine", json::object());
  options.engine.max_num_batched_tokens = engine.value("max_num_batched_tokens", 0);
  options.engine.max_num_seqs = engine.value("max_num_seqs", 0);
  options.engine.max_model_len = engine.value("max_model_len", 0);
  options.engine.kv_cache_bytes = engine.value("kv_cache_bytes", int64_t{0});
  options.engine.kv_cache_dtype = engine.value("kv_cache_dtype", "auto");
  options.engine.enforce_eager = engine.value("enforce_eager", false);
  return options;
}

const std::map<std::string, Pooling>& Poolings() {
  static const std::map<std::string, Pooling> names = {{"mean", Pooling::kMean},
                                                       {"cls", Pooling::kCls},
                                                       {"max", Pooling::kMax},
                                                       {"lasttoken", Pooling::kLastToken},
                                                       {"weightedmean", Pooling::kWeightedMean},
                                                       {"mean_sqrt_len_tokens", Pooling::kMeanSqrtLen}};
  return names;
}

// As server/convert_embed.cc does it: what the request leaves out is the checkpoint's.
EmbedParams ReadEmbed(const json& r, const EmbeddingDefaults& checkpoint) {
  return {.pooling = r.contains("pooling") ? Poolings().at(r["pooling"]) : checkpoint.pooling,
          .normalize = r.value("normalize", checkpoint.normalize),
          .dimensions = r.value("dimensions", 0)};
}

SamplingParams ReadSampling(const json& r) {
  SamplingParams s;
  s.max_tokens = r.value("max_tokens", 16);
  s.min_tokens = r.value("min_tokens", 0);
  s.temperature = r.value("temperature", 0.0F);
  s.top_k = r.value("top_k", 0);
  s.top_p = r.value("top_p", 1.0F);
  s.min_p = r.value("min_p", 0.0F);
  s.repetition_penalty = r.value("repetition_penalty", 1.0F);
  s.presence_penalty = r.value("presence_penalty", 0.0F);
  s.frequency_penalty = r.value("frequency_penalty", 0.0F);
  s.logit_bias = r.value("logit_bias", std::vector<std::pair<TokenId, float>>{});
  s.seed = r.value("seed", 0ULL);
  s.logprobs = r.value("logprobs", -1);
  s.stop_token_ids = r.value("stop_token_ids", std::vector<TokenId>{});
  return s;
}

std::shared_ptr<Request> ReadRequest(const json& r, const EmbeddingDefaults& checkpoint) {
  auto request = std::make_shared<Request>();
  request->prompt = r.at("ids").get<std::vector<TokenId>>();
  request->sink = std::make_shared<CollectingSink>();
  if (r.value("embed", false)) {
    request->kind = Request::Kind::kEmbed;
    request->embed = ReadEmbed(r, checkpoint);
  } else {
    request->sampling = ReadSampling(r);
  }
  return request;
}

json WaitFor(const Request& request) { return static_cast<CollectingSink&>(*request.sink).Wait(); }

json Answer(Engine& engine, const EmbeddingDefaults& checkpoint, const json& job) {
  json answers = json::array();
  std::vector<std::shared_ptr<Request>> requests;
  for (const json& r : job.at("requests")) requests.push_back(ReadRequest(r, checkpoint));
  // Together: in one piece, so that the steps are the same in every run.
  const size_t at_once = job.value("together", true) ? requests.size() : 1;
  for (size_t first = 0; first < requests.size(); first += at_once) {
    const auto next = std::span(requests).subspan(first, at_once);
    if (absl::Status status = engine.Submit(next); !status.ok()) throw std::runtime_error(status.ToString());
    for (const auto& request : next) answers.push_back(WaitFor(*request));
  }
  return answers;
}

json Shown(const Fp8Report& report) {
  json skipped = json::array();
  for (const auto& [fqn, reason] : report.skipped) skipped.push_back({{"fqn", fqn}, {"reason", reason}});
  return {{"converted", report.converted}, {"total", report.total}, {"success", report.success}, {"skipped", skipped}};
}

json Shown(const LoadReport& report) {
  json attempts = json::array();
  for (const auto& [what, error, fallback] : report.attempts) {
    attempts.push_back({{"what", what}, {"error", error}, {"fallback", fallback}});
  }
  return {{"attention_backend", report.attention_backend},
          {"attempts", attempts},
          {"decode_attention_ops", report.decode_attention_ops},
          {"dtype", report.info.dtype},
          {"fp8", report.fp8.has_value() ? Shown(*report.fp8) : json()},
          {"max_model_len", report.info.max_model_len},
          {"notes", report.notes},
          {"kv_bytes", report.kv_bytes},
          {"num_parameters", report.info.num_parameters},
          {"peak_bytes", report.peak_bytes},
          {"phase_seconds", json::object_t(report.phase_seconds.begin(), report.phase_seconds.end())},
          {"unread_tensors", report.unread_tensors},
          {"weight_bytes", report.weight_bytes}};
}

json Shown(const EmbeddingDefaults& embedding) {
  return {{"normalize", embedding.normalize}, {"max_seq_length", embedding.max_seq_length}};
}

int Main() {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("oracle"));  // stdout is for the result
  const json job = json::parse(std::cin);
  const LoadOptions options = ReadLoad(job.at("load"));
  auto model = AutoModel::Load(options, LoadContext{});
  for (int i = 1; i < job.value("times", 1) && model.ok(); ++i) {
    model = absl::UnknownError("freed before the next");
    model = AutoModel::Load(options, LoadContext{});
  }
  if (!model.ok()) throw std::runtime_error(model.status().ToString());
  json result = {{"report", Shown(model->report)}, {"embedding", Shown(model->embedding)}};
  if (!options.check_only) {
    Metrics metrics;
    Engine engine("oracle", std::move(model->runner), nullptr, EngineOptions{.max_queue_size = 4096},
                  metrics.ForModel("oracle"));
    result["answers"] = Answer(engine, model->embedding, job);
    result["preemptions"] = metrics.ForModel("oracle")->preemptions.Value();
  }
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
