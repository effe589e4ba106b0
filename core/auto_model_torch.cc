#include <malloc.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <future>
#include <iterator>
#include <optional>
#include <system_error>
#include <utility>

#include "core/auto_model.h"
#include "core/config.h"
#include "core/device_memory_torch.h"
#include "core/device_torch.h"
#include "core/engine/model_runner.h"
#include "core/exception_torch.h"
#include "core/generation_config.h"
#include "core/limits_torch.h"
#include "core/load_meter.h"
#include "core/load_options.h"
#include "core/model_weights_torch.h"
#include "core/models/architecture.h"
#include "core/op_probe.h"
#include "core/patch.h"
#include "core/plan_torch.h"
#include "core/quantization.h"
#include "core/safetensors.h"
#include "core/sentence_transformers.h"
#include "core/status.h"
#include "core/version.h"
#include "kernels/linear.h"

namespace automodeld {

namespace {

using TokenizerResult = absl::StatusOr<std::shared_ptr<const Tokenizer>>;

AttentionNeeds NeedsOf(const ModelShape& shape, at::ScalarType dtype, at::Device device) {
  return {.num_heads = shape.num_heads,
          .num_kv_heads = shape.num_kv_heads,
          .head_dim = shape.head_dim,
          .dtype = dtype,
          .device = device,
          .causal = shape.causal,
          .window = std::ranges::any_of(shape.windows, [](int64_t window) { return window > 0; })};
}

// A fault of a file in a folder is the checkpoint's, not the request's.
absl::Status OfCheckpoint(const absl::Status& status) {
  if (!absl::IsNotFound(status) && !absl::IsInvalidArgument(status)) return status;
  return absl::FailedPreconditionError(status.message());
}

// One load, phase by phase. An empty folder: weights from options.seed.
class Loading {
 public:
  Loading(std::string folder, const LoadOptions& options, const LoadContext& context)
      : folder_(std::move(folder)), options_(options), context_(context), meter_(context) {}

  absl::StatusOr<LoadedModel> Run(absl::StatusOr<Config> config) {
    meter_.Begin("config");
    RETURN_IF_ERROR(CheckLoadOptions(options_));
    RETURN_IF_ERROR(ChooseModel(std::move(config)));
    if (absl::Status status = ReadFolder(); !status.ok()) return OfCheckpoint(status);
    RETURN_IF_ERROR(Plan());
    if (!options_.check_only) {
      if (IsTokenizerRead()) RETURN_IF_ERROR(AwaitTokenizer());  // a broken one is told before weights are read
      RETURN_IF_ERROR(ReadWeights());
      RETURN_IF_ERROR(MakeEngine());
    }
    RETURN_IF_ERROR(AwaitTokenizer());
    RETURN_IF_ERROR(meter_.Check());
    if (claim_.has_value()) claim_->Settle();
    SettleDefaults();
    Report();
    return std::move(loaded_);
  }

 private:
  absl::Status ChooseModel(absl::StatusOr<Config> config) {
    const bool is_files_fault = !folder_.empty() && options_.config_overrides.empty();
    if (!config.ok()) return folder_.empty() ? config.status() : OfCheckpoint(config.status());
    config_ = *std::move(config);
    if (!options_.config_overrides.empty()) RETURN_IF_ERROR(config_.Override(options_.config_overrides));
    ASSIGN_OR_RETURN(architecture_, ChooseArchitecture(config_, options_.auto_class));
    absl::StatusOr<ModelShape> shape = architecture_->describe(config_);
    if (!shape.ok()) return is_files_fault ? OfCheckpoint(shape.status()) : shape.status();
    shape_ = *std::move(shape);
    return absl::OkStatus();
  }

  // What the folder's small files say, and the headers of the large ones.
  absl::Status ReadFolder() {
    StartTokenizer();
    if (!folder_.empty()) {
      ASSIGN_OR_RETURN(files_, Safetensors::Open(folder_));
    }
    ASSIGN_OR_RETURN(dialect_, ReadQuantization(folder_, config_));
    ASSIGN_OR_RETURN(loaded_.generation, ReadGenerationDefaults(folder_, config_));
    ASSIGN_OR_RETURN(loaded_.embedding, ReadEmbeddingDefaults(folder_, shape_.causal));
    return absl::OkStatus();
  }

  // Beside the reading of weights, because a large vocabulary takes as long.
  void StartTokenizer() {
    if (folder_.empty()) return;
    tokenizer_ = std::async(std::launch::async, [folder = folder_] { return Tokenizer::Load(folder); });
  }

  bool IsTokenizerRead() const {
    return tokenizer_.valid() && tokenizer_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }

  absl::Status AwaitTokenizer() {
    if (!tokenizer_.valid()) return absl::OkStatus();
    TokenizerResult result = tokenizer_.get();
    if (absl::IsNotFound(result.status())) return absl::OkStatus();
    if (!result.ok()) return OfCheckpoint(result.status());
    loaded_.tokenizer = *std::move(result);
    return absl::OkStatus();
  }

  absl::Status Plan() {
    meter_.Begin("plan");
    RETURN_IF_ERROR(meter_.Check());
    ASSIGN_OR_RETURN(const at::Device device, ChooseDevice(options_.device, device_fallbacks_));
    ASSIGN_OR_RETURN(const at::ScalarType dtype, ChooseDtype(options_.torch_dtype, config_, Files()));
    target_ = at::TensorOptions(dtype).device(device);
    RETURN_IF_ERROR(CheckFieldsBuilt(options_));
    RETURN_IF_ERROR(PlanPatches(device, dtype));
    RETURN_IF_ERROR(PlanWeights());
    if (!shape_.causal) RETURN_IF_ERROR(AwaitTokenizer());
    RETURN_IF_ERROR(PlanEngine());
    if (shape_.causal && attention_->TakesRaw(ops_.qkv_rope_write_kv.version, kv_dtype_)) {
      loaded_.report.decode_attention_ops = {ops_.qkv_rope_write_kv.name};
    }
    return config_.CheckOverridesRead(architecture_->name);
  }

  absl::Status PlanPatches(at::Device device, at::ScalarType dtype) {
    ASSIGN_OR_RETURN(PatchedAttention attention,
                     PatchAttention(options_, NeedsOf(shape_, dtype, device), attention_fallbacks_, sdpa_fallbacks_));
    attention_ = std::move(attention.backend);
    loaded_.report.attention_backend = attention_->name();
    loaded_.report.notes = std::move(attention.notes);
    const OpTarget target = {architecture_->name, architecture_->ops, DimsOf(shape_), target_};
    ASSIGN_OR_RETURN(PatchedOps patched, PatchOps(options_, target, fused_fallbacks_));
    ops_ = std::move(patched.ops);
    loaded_.report.patches = std::move(patched.patches);
    std::ranges::move(patched.notes, std::back_inserter(loaded_.report.notes));
    std::string missing = MissingKernels(device);
    if (!missing.empty()) loaded_.report.notes.push_back(std::move(missing));
    return absl::OkStatus();
  }

  absl::Status PlanWeights() {
    weights_.emplace(ModelWeights::Parts{.options = &options_,
                                         .context = &context_,
                                         .config = &config_,
                                         .architecture = architecture_,
                                         .files = Files(),
                                         .initializer_range = shape_.initializer_range,
                                         .target = target_,
                                         .meter = &meter_});
    RETURN_IF_ERROR(weights_->PlanFp8(dialect_));
    RETURN_IF_ERROR(weights_->Plan(ops_));
    available_bytes_ = DeviceMemory::Of(target_.device()).budget().Available();
    return absl::OkStatus();
  }

  absl::Status PlanEngine() {
    const int tokenizer_length = loaded_.tokenizer == nullptr ? 0 : loaded_.tokenizer->model_max_length();
    ASSIGN_OR_RETURN(RunnerLimits limits, PlanLengths(shape_, options_.engine, tokenizer_length));
    const MemoryNeeds needs = {
        .weights = weights_->bytes(), .tables = TableBytes(shape_), .available = available_bytes_};
    kv_dtype_ = KvDtype(options_.engine.kv_cache_dtype, at::typeMetaToScalarType(target_.dtype()));
    ASSIGN_OR_RETURN(planned_,
                     PlanMemory(shape_, options_.engine, limits, needs, kv_dtype_, target_.device().is_cpu()));
    return options_.check_only ? absl::OkStatus() : ClaimMemory();
  }

  // So that another load does not count on the same memory before this one has taken it.
  absl::Status ClaimMemory() {
    MemoryBudget& budget = DeviceMemory::Of(target_.device()).budget();
    bool claimed = claim_.has_value() && claim_->Resize(planned_.needed_bytes);
    if (!claim_.has_value()) {
      std::optional<MemoryBudget::Claim> claim = budget.TryClaim(planned_.needed_bytes);
      claimed = claim.has_value();
      if (claimed) claim_.emplace(*std::move(claim));
    }
    if (claimed) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        fmt::format("the model needs {} bytes for weights and one sequence, but {} are available beside other models",
                    planned_.needed_bytes, budget.Available()));
  }

  absl::Status ReadWeights() {
    try {
      ASSIGN_OR_RETURN(model_, weights_->Read(ops_));
      return absl::OkStatus();
    } catch (const Fp8Failure& failure) {
      RETURN_IF_ERROR(PlanWithoutFp8(failure.what()));
    }
    ASSIGN_OR_RETURN(model_, weights_->Read(ops_));
    return absl::OkStatus();
  }

  absl::Status PlanWithoutFp8(const std::string& why) {
    const int64_t fp8_bytes = weights_->bytes();
    RETURN_IF_ERROR(weights_->GiveUpFp8(why, ops_));
    const absl::Status status = PlanEngine();
    if (!absl::IsResourceExhausted(status)) return status;
    return absl::ResourceExhaustedError(
        fmt::format("fp8_config failed ({}), and unquantised the weights take {} bytes instead of {}: {}", why,
                    weights_->bytes(), fp8_bytes, std::string(status.message())));
  }

  absl::Status MakeEngine() {
    meter_.Begin("engine");
    RETURN_IF_ERROR(meter_.Check());
    ASSIGN_OR_RETURN(loaded_.runner, MakeModelRunner({.model = std::move(model_),
                                                      .shape = shape_,
                                                      .ops = ops_,
                                                      .attention = std::move(attention_),
                                                      .options = target_,
                                                      .kv_options = target_.dtype(kv_dtype_),
                                                      .kv_arena = DeviceMemory::Of(target_.device()).arena(),
                                                      .limits = planned_.limits,
                                                      .record_graphs = !options_.engine.enforce_eager},
                                                     graph_fallbacks_, loaded_.report.notes));
    return absl::OkStatus();
  }

  // What one file leaves to another.
  void SettleDefaults() {
    const int longest = planned_.limits.max_model_len;
    int& kept = loaded_.embedding.max_seq_length;
    if (kept == 0 && loaded_.tokenizer != nullptr) kept = loaded_.tokenizer->model_max_length();
    kept = kept == 0 ? longest : std::min(kept, longest);
    std::vector<TokenId>& ends = loaded_.generation.eos_token_ids;
    if (ends.empty() && loaded_.tokenizer != nullptr && loaded_.tokenizer->eos_id().has_value()) {
      ends.push_back(*loaded_.tokenizer->eos_id());
    }
    std::erase_if(ends, [this](TokenId id) {
      if (id < shape_.vocab_size) return false;
      spdlog::warn("{}: eos_token_id: {} is outside the vocabulary of {}", options_.model, id, shape_.vocab_size);
      return true;
    });
  }

  void Report() {
    LoadReport& report = loaded_.report;
    report.info = Info();
    for (const Fallbacks* step :
         std::initializer_list<const Fallbacks*>{&device_fallbacks_, &attention_fallbacks_, &fused_fallbacks_,
                                                 &sdpa_fallbacks_, &weights_->fallbacks(), &graph_fallbacks_}) {
      report.attempts.insert(report.attempts.end(), step->attempts().begin(), step->attempts().end());
    }
    weights_->Report(report);
    report.kv_bytes = planned_.kv_bytes;
    if (!shape_.causal && options_.engine.kv_cache_dtype != "auto") {
      report.notes.push_back("engine.kv_cache_dtype has no effect: an encoder has no KV cache");
    }
    report.peak_bytes = target_.device().is_cpu() ? weights_->bytes() + weights_->borrowed_bytes()
                                                  : PeakBytes(target_.device());  // libtorch counts there
    report.phase_seconds = meter_.Finish();
    report.automodeld_version = Version();
  }

  ModelInfo Info() const {
    const auto serves = [this](AutoClass auto_class) {
      return std::ranges::find(architecture_->classes, auto_class) != architecture_->classes.end();
    };
    return {.model = options_.model,
            .architecture = architecture_->name,
            .model_type = architecture_->model_type,
            .dtype = DtypeName(at::typeMetaToScalarType(target_.dtype())),
            .device = target_.device().str(),
            .num_parameters = weights_->num_parameters(),
            .max_model_len = planned_.limits.max_model_len,
            .vocab_size = static_cast<int>(shape_.vocab_size),
            .hidden_size = static_cast<int>(shape_.hidden_size),
            .num_layers = static_cast<int>(shape_.num_layers),
            .can_generate = shape_.causal && options_.auto_class != AutoClass::kEmbedding &&
                            (serves(AutoClass::kCausalLM) || serves(AutoClass::kImageTextToText)),
            .can_embed = serves(AutoClass::kEmbedding),
            .has_chat_template = loaded_.tokenizer != nullptr && loaded_.tokenizer->has_chat_template()};
  }

  const Safetensors* Files() const { return files_.has_value() ? &*files_ : nullptr; }

  const std::string folder_;
  const LoadOptions& options_;
  const LoadContext& context_;
  LoadMeter meter_;
  LoadedModel loaded_;
  Config config_;
  const Architecture* architecture_ = nullptr;
  ModelShape shape_;
  std::future<TokenizerResult> tokenizer_;
  std::optional<Safetensors> files_;
  std::string dialect_;                       // of a quantised checkpoint
  std::optional<MemoryBudget::Claim> claim_;  // ends after the weights
  std::optional<ModelWeights> weights_;
  int64_t available_bytes_ = 0;  // on the device, before the load
  at::TensorOptions target_;     // of the weights
  at::ScalarType kv_dtype_ = at::kFloat;
  Ops ops_;
  std::unique_ptr<AttentionBackend> attention_;
  std::unique_ptr<Model> model_;
  PlannedLimits planned_;
  Fallbacks device_fallbacks_{options_.allow_fallback, context_.fault};
  Fallbacks attention_fallbacks_{options_.allow_fallback, context_.fault};
  Fallbacks fused_fallbacks_{options_.allow_fallback, context_.fault};
  Fallbacks sdpa_fallbacks_{options_.allow_fallback, context_.fault};
  Fallbacks graph_fallbacks_{options_.allow_fallback, context_.fault};
};

absl::StatusOr<LoadedModel> LoadFrom(const std::string& folder, absl::StatusOr<Config> config,
                                     const LoadOptions& options, const LoadContext& context) {
  absl::StatusOr<LoadedModel> loaded =
      WithoutExceptions([&] { return Loading(folder, options, context).Run(std::move(config)); });
  if (!loaded.ok()) malloc_trim(0);  // what a broken load had taken goes back to the machine, not to the allocator
  return loaded;
}

}  // namespace

absl::StatusOr<LoadedModel> AutoModel::Load(const LoadOptions& options, const LoadContext& context) {
  return options.path.empty() ? FromConfig(options.config_json, options, context)
                              : FromPretrained(options.path, options, context);
}

absl::StatusOr<LoadedModel> AutoModel::FromPretrained(const std::string& path, const LoadOptions& options,
                                                      const LoadContext& context) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) return absl::NotFoundError("path: no such folder");
  return LoadFrom(path, Config::Read(path, "config.json"), options, context);
}

absl::StatusOr<LoadedModel> AutoModel::FromConfig(const std::string& config_json, const LoadOptions& options,
                                                  const LoadContext& context) {
  return LoadFrom("", Config::Parse(config_json, "config_json"), options, context);
}

}  // namespace automodeld
