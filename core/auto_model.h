// The auto-model factory: opens a Hugging Face checkpoint folder, picks the architecture from config.json, plans
// attention, fused kernels, SDPA and FP8 with their fallbacks, loads the weights and reports what it did.
//
//   ASSIGN_OR_RETURN(LoadedModel model, AutoModel::FromPretrained("/models/llama", {}, context));
//   model.report.attempts;  // every fallback, in order
//
// Follows nemo_automodel's `_BaseNeMoAutoModelClass.from_pretrained` / `from_config`. Torch-free header.
#ifndef CORE_AUTO_MODEL_H_
#define CORE_AUTO_MODEL_H_

#include <absl/status/statusor.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/engine/request.h"
#include "core/engine/runner.h"
#include "core/text/text.h"

namespace automodeld {

enum class AutoClass { kAuto, kCausalLM, kImageTextToText, kEmbedding };
enum class SdpaMethod { kCudnnAttention, kFlashAttention, kEfficientAttention, kMath };

struct Fp8Config {
  std::string recipe_name = "tensorwise";  // or rowwise, rowwise_with_gw_hp
  std::vector<std::string> filter_fqns = {};
  bool emulate = false;
  bool include_lm_head = false;
};

// Limits of the engine; 0 takes the default of models.proto.
struct EngineConfig {
  int max_model_len = 0;
  int max_num_seqs = 0;
  int max_num_batched_tokens = 0;
  std::string kv_cache_dtype = "auto";
  int64_t kv_cache_bytes = 0;
  std::optional<bool> enable_prefix_caching = std::nullopt;
  bool enforce_eager = false;  // no CUDA graphs
};

// LoadModelRequest, field by field, defaults filled in; `path` is already resolved and allowed.
struct LoadOptions {
  std::string model;        // name to serve
  std::string path;         // checkpoint folder; empty with config_json
  std::string config_json;  // random weights from `seed`
  AutoClass auto_class = AutoClass::kAuto;
  bool use_liger_kernel = true;
  bool use_sdpa_patching = true;
  std::vector<SdpaMethod> sdpa_method;  // empty: CUDNN, FLASH, EFFICIENT, MATH
  std::string torch_dtype = "auto";
  std::string attn_implementation = "flash_attention_2";
  std::optional<Fp8Config> fp8_config;
  std::string config_overrides;  // JSON object
  std::string revision;          // of a Hub id; the server has resolved it into `path`
  uint64_t seed = 0;
  std::string device = "auto";
  std::map<std::string, std::string> op_overrides;
  bool allow_fallback = true;
  bool allow_unread_tensors = false;
  EngineConfig engine;
  bool check_only = false;
};

struct ModelInfo {
  std::string model;
  std::string architecture;  // LlamaForCausalLM
  std::string model_type;    // llama
  std::string dtype;         // bfloat16
  std::string device;        // cpu, cuda:0
  int64_t num_parameters = 0;
  int max_model_len = 0;
  int vocab_size = 0;
  int hidden_size = 0;
  int num_layers = 0;
  bool can_generate = false;
  bool can_embed = false;
  bool has_chat_template = false;
};

struct LoadAttempt {
  std::string what;  // attn_implementation=flash_attention_2
  std::string error;
  std::string fallback;  // sdpa
};

struct OpPatch {
  std::string op;
  std::string from;
  std::string to;
};

struct Fp8Report {
  struct Module {
    std::string fqn;
    std::vector<int64_t> shape;  // [out, in]
  };
  struct Skipped {
    std::string fqn;
    std::string reason;
  };
  int converted = 0;
  int total = 0;
  bool success = false;
  std::vector<Module> modules;
  std::vector<Skipped> skipped;
};

struct LoadReport {
  ModelInfo info;
  std::vector<LoadAttempt> attempts;  // in the order attention, fused, SDPA, FP8
  std::vector<std::string> notes;     // what was asked for and has another effect or none, without anything failing
  std::vector<OpPatch> patches;
  std::string attention_backend;
  std::vector<std::string> decode_attention_ops;  // that attention does itself in steps of few decode rows alone
  std::optional<Fp8Report> fp8;
  std::vector<std::string> unread_tensors;
  int64_t weight_bytes = 0;
  int64_t kv_bytes = 0;
  int64_t peak_bytes = 0;
  std::vector<std::pair<std::string, double>> phase_seconds;
  std::string automodeld_version;
};

// What generation_config.json says; what it leaves out stays empty.
struct GenerationDefaults {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k, max_new_tokens;
  std::optional<bool> do_sample;  // false: greedy unless the request gives a temperature
  std::vector<TokenId> eos_token_ids;
};

// What modules.json, 1_Pooling, 2_Normalize, sentence_bert_config.json and config_sentence_transformers.json say.
struct EmbeddingDefaults {
  Pooling pooling = Pooling::kLastToken;  // a causal model without 1_Pooling; kMean for an encoder without
  bool normalize = true;
  int max_seq_length = 0;                      // tokens kept when truncating; 0: max_model_len
  std::map<std::string, std::string> prompts;  // prompt_name -> text put before each input
  std::string default_prompt_name;
};

// A model that is ready to run. `runner` is null after check_only; `tokenizer` is null where the folder has none.
struct LoadedModel {
  LoadReport report;  // report.info says what it is
  GenerationDefaults generation;
  EmbeddingDefaults embedding;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<Runner> runner;
};

struct LoadProgress {
  std::string phase;  // config, plan, weights, engine
  int64_t done_bytes = 0;
  int64_t total_bytes = 0;
  double seconds = 0;
};

// What a load in flight listens and talks to. `progress` is called on the loading thread, at each change of phase and
// between them at most every 50 ms.
struct LoadContext {
  std::function<void(const LoadProgress&)> progress = [](const LoadProgress&) {};
  const std::atomic<bool>* cancelled = nullptr;  // when true the load ends with CANCELLED and frees everything
  // For tests: called inside each step ("flash_attention_2", "sdpa", "eager", "sdpa_method", "fused", "fp8"); an error
  // is one of the step.
  std::function<absl::Status(std::string_view step)> fault = nullptr;
};

// The one step of loading that the registry needs: AutoModel::Load is the real one, tests have a fake.
// Errors: see ModelService.LoadModel in models.proto. Whatever is wrong with a file in `path` is FAILED_PRECONDITION,
// unless config_overrides may have made it so; NOT_FOUND is for the folder alone.
using LoadFunction = std::function<absl::StatusOr<LoadedModel>(const LoadOptions&, const LoadContext&)>;

class AutoModel {
 public:
  // FromPretrained if options.path is set, else FromConfig.
  static absl::StatusOr<LoadedModel> Load(const LoadOptions& options, const LoadContext& context);
  static absl::StatusOr<LoadedModel> FromPretrained(const std::string& path, const LoadOptions& options,
                                                    const LoadContext& context);
  static absl::StatusOr<LoadedModel> FromConfig(const std::string& config_json, const LoadOptions& options,
                                                const LoadContext& context);
};

// The same for one class of models; an architecture of another class is INVALID_ARGUMENT. Follows nemo_automodel's
// NeMoAutoModelForCausalLM and NeMoAutoModelForImageTextToText.
template <AutoClass kClass>
class AutoModelOf {
 public:
  static absl::StatusOr<LoadedModel> FromPretrained(const std::string& path, LoadOptions options,
                                                    const LoadContext& context) {
    options.auto_class = kClass;
    return AutoModel::FromPretrained(path, options, context);
  }
  static absl::StatusOr<LoadedModel> FromConfig(const std::string& config_json, LoadOptions options,
                                                const LoadContext& context) {
    options.auto_class = kClass;
    return AutoModel::FromConfig(config_json, options, context);
  }
};

using AutoModelForCausalLM = AutoModelOf<AutoClass::kCausalLM>;
using AutoModelForImageTextToText = AutoModelOf<AutoClass::kImageTextToText>;  // no architecture yet
using AutoModelForEmbedding = AutoModelOf<AutoClass::kEmbedding>;

}  // namespace automodeld

#endif  // CORE_AUTO_MODEL_H_
