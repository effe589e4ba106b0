// Name -> model. Loads, finds, lists and lets go of models; every model has its own engine.
//
//   ModelRegistry registry(AutoModel::Load, {.max_queue_size = 512}, &metrics);
//   RETURN_IF_ERROR(registry.Load(options, context).status());       // blocks; on the worker pool
//   ASSIGN_OR_RETURN(auto model, registry.Find("llama"));            // shared: stays alive while a call uses it
//   RETURN_IF_ERROR(model->engine->Submit(request));
//   ASSIGN_OR_RETURN(auto old, registry.TakeOutOfService("llama"));
//   old->engine->StartDrain(false, [=] { post([=] { registry.Free("llama", old); }); });
//
// Threads: everything from any thread.
#ifndef CORE_MODEL_REGISTRY_H_
#define CORE_MODEL_REGISTRY_H_

#include <absl/status/statusor.h>
#include <absl/time/time.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/auto_model.h"
#include "core/engine/engine.h"
#include "core/metrics.h"

namespace automodeld {

enum class ModelState { kLoading, kReady, kUnloading, kFailed };

// A model in service. Constant but for the engine, which is safe from any thread.
struct ServedModel {
  LoadReport report;
  GenerationDefaults generation;
  EmbeddingDefaults embedding;
  std::shared_ptr<const Tokenizer> tokenizer;  // null: token ids only
  std::unique_ptr<Engine> engine;
};

struct ModelStatus {
  std::string model;
  ModelState state = ModelState::kLoading;
  std::string error;                          // kFailed
  std::shared_ptr<const ServedModel> served;  // kReady and kUnloading, else null
};

class ModelRegistry {
 public:
  // Called after each change of a model's state with its name and new state; null state: the name is gone. Calls come
  // one at a time and in the order of the changes; the listener may call Find, List and Get.
  using Listener = std::function<void(const std::string& model, const ModelState* state)>;

  static constexpr size_t kMaxFailed = 64;

  ModelRegistry(LoadFunction load, const EngineOptions& engine_options, Metrics* metrics);
  ~ModelRegistry();  // drains nothing: what runs ends with UNAVAILABLE. No call of Load or Free may be under way

  void SetListener(Listener listener);

  // Loads and serves; returns the report. ALREADY_EXISTS if the name is loading, ready or unloading; UNAVAILABLE while
  // draining. With check_only nothing is served and the name stays free. A failed load leaves the state FAILED; one
  // that was cancelled, or overtaken by Drain, leaves nothing. The oldest of more than kMaxFailed is forgotten.
  absl::StatusOr<LoadReport> Load(const LoadOptions& options, const LoadContext& context);

  // The first half of unloading: no new calls find the model; its engine is the caller's to drain. The same model again
  // if it is UNLOADING already; null if its load had failed: the name is forgotten. NOT_FOUND lists the loaded names;
  // UNAVAILABLE: it is loading.
  absl::StatusOr<std::shared_ptr<const ServedModel>> TakeOutOfService(const std::string& model);

  // The second half: ends what still runs, frees the memory, then the name. Blocks until that is done.
  void Free(const std::string& model, const std::shared_ptr<const ServedModel>& served);

  // NOT_FOUND: `model "x" is not loaded; loaded: a, b`; UNAVAILABLE: it is loading, unloading, or the daemon drains.
  absl::StatusOr<std::shared_ptr<const ServedModel>> Find(const std::string& model) const;

  std::vector<ModelStatus> List() const;  // in order of name
  absl::StatusOr<ModelStatus> Get(const std::string& model) const;

  // Refuses new loads and new calls, lets every engine finish until `deadline`, then ends what is left.
  void Drain(absl::Time deadline);

 private:
  struct Entry {
    ModelState state = ModelState::kLoading;
    std::string error{};
    std::shared_ptr<const ServedModel> served{};
    int64_t failure = 0;  // kFailed: its number
  };
  using Entries = std::map<std::string, Entry>;

  absl::Status CheckNotDraining() const;
  absl::Status ReserveName(const std::string& model);
  absl::StatusOr<LoadReport> LoadAndServe(const LoadOptions& options, const LoadContext& context);
  absl::StatusOr<LoadReport> Serve(const LoadOptions& options, LoadedModel loaded, double seconds);
  void Fail(const std::string& model, const absl::Status& status);
  void ForgetOldFailures();
  void Change(const std::string& model, const std::function<void(Entries&)>& change);
  absl::Status NotFound(const std::string& model) const;  // under mutex_

  const LoadFunction load_;
  const EngineOptions engine_options_;
  Metrics* const metrics_;
  std::mutex change_mutex_;  // held over a change and its listener's call; taken before mutex_
  Listener listener_;
  mutable std::mutex mutex_;  // of what follows
  bool draining_ = false;
  Entries entries_;
  int64_t num_failures_ = 0;
};

}  // namespace automodeld

#endif  // CORE_MODEL_REGISTRY_H_
