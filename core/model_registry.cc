#include "core/model_registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <malloc.h>

#include <string_view>
#include <utility>

#include "core/guarded.h"
#include "core/status.h"

namespace automodeld {
namespace {

absl::Status Draining() { return absl::UnavailableError("the daemon is draining"); }

absl::Status CheckNotCancelled(const LoadContext& context) {
  const bool cancelled = context.cancelled != nullptr && context.cancelled->load();
  return cancelled ? absl::CancelledError("the load was cancelled") : absl::OkStatus();
}

std::string_view StateName(ModelState state) {
  switch (state) {
    case ModelState::kLoading:
      return "is loading";
    case ModelState::kReady:
      return "is loaded";
    case ModelState::kUnloading:
      return "is being unloaded";
    case ModelState::kFailed:
      return "failed to load";
  }
  return "";
}

// "fp8_config=rowwise" -> "fp8_config"
std::string StepOf(const LoadAttempt& attempt) { return attempt.what.substr(0, attempt.what.find('=')); }

}  // namespace

ModelRegistry::ModelRegistry(LoadFunction load, const EngineOptions& engine_options, Metrics* metrics)
    : load_(std::move(load)), engine_options_(engine_options), metrics_(metrics) {}

ModelRegistry::~ModelRegistry() {
  // Calls may still hold a model, and outlive the registry with it: its engine ends here all the same.
  for (auto& [model, entry] : entries_) {
    if (entry.served != nullptr) entry.served->engine->Shutdown();
  }
}

void ModelRegistry::SetListener(Listener listener) {
  const std::lock_guard lock(change_mutex_);
  listener_ = std::move(listener);
}

absl::StatusOr<LoadReport> ModelRegistry::Load(const LoadOptions& options, const LoadContext& context) {
  RETURN_IF_ERROR(options.check_only ? CheckNotDraining() : ReserveName(options.model));
  absl::StatusOr<LoadReport> report = Guarded([&] { return LoadAndServe(options, context); });
  if (!report.ok() && !options.check_only) Fail(options.model, report.status());
  return report;
}

absl::StatusOr<LoadReport> ModelRegistry::LoadAndServe(const LoadOptions& options, const LoadContext& context) {
  const absl::Time start = absl::Now();
  ASSIGN_OR_RETURN(LoadedModel loaded, load_(options, context));
  RETURN_IF_ERROR(CheckNotCancelled(context));
  if (options.check_only) return std::move(loaded.report);
  return Serve(options, std::move(loaded), absl::ToDoubleSeconds(absl::Now() - start));
}

void ModelRegistry::Fail(const std::string& model, const absl::Status& status) {
  Change(model, [&](Entries& entries) {
    if (absl::IsCancelled(status) || draining_) {
      entries.erase(model);
    } else {
      entries[model] = {ModelState::kFailed, std::string(status.message()), nullptr, ++num_failures_};
    }
  });
  ForgetOldFailures();
}

// A client that makes up names may not fill the memory with their errors.
void ModelRegistry::ForgetOldFailures() {
  std::map<int64_t, std::string> failed;  // oldest first
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [model, entry] : entries_) {
      if (entry.state == ModelState::kFailed) failed.emplace(entry.failure, model);
    }
  }
  for (; failed.size() > kMaxFailed; failed.erase(failed.begin())) {
    const auto& [failure, model] = *failed.begin();
    Change(model, [&, number = failure, name = model](Entries& entries) {
      const auto found = entries.find(name);
      if (found != entries.end() && found->second.failure == number) entries.erase(found);
    });
  }
}

absl::Status ModelRegistry::CheckNotDraining() const {
  const std::lock_guard lock(mutex_);
  return draining_ ? Draining() : absl::OkStatus();
}

absl::Status ModelRegistry::ReserveName(const std::string& model) {
  absl::Status status;
  Change(model, [&](Entries& entries) {
    const auto found = entries.find(model);
    if (draining_) {
      status = Draining();
    } else if (found != entries.end() && found->second.state != ModelState::kFailed) {
      status = absl::AlreadyExistsError(fmt::format("model \"{}\" {}", model, StateName(found->second.state)));
    } else {
      entries[model] = Entry{};
    }
  });
  return status;
}

absl::StatusOr<LoadReport> ModelRegistry::Serve(const LoadOptions& options, LoadedModel loaded, double seconds) {
  const std::string& model = options.model;
  ModelMetrics* metrics = metrics_->ForModel(model);
  auto served = std::make_shared<ServedModel>();
  served->engine =
      std::make_unique<Engine>(model, std::move(loaded.runner), loaded.tokenizer, engine_options_, metrics);
  served->report = std::move(loaded.report);
  served->generation = std::move(loaded.generation);
  served->embedding = std::move(loaded.embedding);
  served->tokenizer = std::move(loaded.tokenizer);
  metrics->load_seconds.Set(seconds);
  for (const LoadAttempt& attempt : served->report.attempts) metrics_->CountFallback(model, StepOf(attempt));

  bool overtaken = false;
  Change(model, [&](Entries& entries) {
    overtaken = draining_;
    if (overtaken) {
      entries.erase(model);
    } else {
      entries[model] = {ModelState::kReady, "", served};
    }
  });
  if (overtaken) return Draining();
  return served->report;
}

absl::StatusOr<std::shared_ptr<const ServedModel>> ModelRegistry::TakeOutOfService(const std::string& model) {
  absl::StatusOr<std::shared_ptr<const ServedModel>> result = nullptr;
  Change(model, [&](Entries& entries) {
    const auto found = entries.find(model);
    if (found == entries.end()) {
      result = NotFound(model);
    } else if (found->second.state == ModelState::kFailed) {
      entries.erase(found);
    } else if (found->second.state == ModelState::kLoading) {
      result = absl::UnavailableError(fmt::format("model \"{}\" {}", model, StateName(found->second.state)));
    } else {
      found->second.state = ModelState::kUnloading;
      result = found->second.served;
    }
  });
  return result;
}

void ModelRegistry::Free(const std::string& model, const std::shared_ptr<const ServedModel>& served) {
  served->engine->Shutdown();
  malloc_trim(0);  // glibc would keep the weights' pages for the next model
  Change(model, [&](Entries& entries) {
    const auto found = entries.find(model);  // perhaps another model by now, if two calls free this one
    if (found != entries.end() && found->second.served == served) entries.erase(found);
  });
}

// Applies the change, then tells the listener if the model's state is another one now.
void ModelRegistry::Change(const std::string& model, const std::function<void(Entries&)>& change) {
  const std::lock_guard change_lock(change_mutex_);
  const auto state = [&]() -> std::optional<ModelState> {
    const auto found = entries_.find(model);
    return found == entries_.end() ? std::nullopt : std::optional(found->second.state);
  };
  std::optional<ModelState> before, after;
  {
    const std::lock_guard lock(mutex_);
    before = state();
    change(entries_);
    after = state();
  }
  if (before != after && listener_) listener_(model, after.has_value() ? &*after : nullptr);
}

absl::StatusOr<std::shared_ptr<const ServedModel>> ModelRegistry::Find(const std::string& model) const {
  const std::lock_guard lock(mutex_);
  if (draining_) return Draining();
  const auto found = entries_.find(model);
  if (found == entries_.end() || found->second.state == ModelState::kFailed) return NotFound(model);
  if (found->second.state != ModelState::kReady) {
    return absl::UnavailableError(fmt::format("model \"{}\" {}", model, StateName(found->second.state)));
  }
  return found->second.served;
}

std::vector<ModelStatus> ModelRegistry::List() const {
  const std::lock_guard lock(mutex_);
  std::vector<ModelStatus> list;
  for (const auto& [model, entry] : entries_) list.push_back({model, entry.state, entry.error, entry.served});
  return list;
}

absl::StatusOr<ModelStatus> ModelRegistry::Get(const std::string& model) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(model);
  if (found == entries_.end()) return NotFound(model);
  return ModelStatus{model, found->second.state, found->second.error, found->second.served};
}

void ModelRegistry::Drain(absl::Time deadline) {
  std::vector<std::shared_ptr<const ServedModel>> models;
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    for (const auto& [model, entry] : entries_) {
      if (entry.served != nullptr) models.push_back(entry.served);
    }
  }
  for (const auto& model : models) model->engine->Drain(deadline);
}

absl::Status ModelRegistry::NotFound(const std::string& model) const {
  std::vector<std::string> loaded;
  for (const auto& [name, entry] : entries_) {
    if (entry.state == ModelState::kReady) loaded.push_back(name);
  }
  return absl::NotFoundError(fmt::format("model \"{}\" is not loaded; loaded: {}", model,
                                         loaded.empty() ? "none" : fmt::format("{}", fmt::join(loaded, ", "))));
}

}  // namespace automodeld
