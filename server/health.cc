#include "server/health.h"

namespace automodeld {

void HealthBoard::Attach(grpc::HealthCheckServiceInterface* service) {
  std::lock_guard lock(mutex_);
  services_.push_back(service);
  for (const auto& [model, serving] : serving_) service->SetServingStatus(model, serving);
}

void HealthBoard::Set(const std::string& model, bool serving) {
  std::lock_guard lock(mutex_);
  if (draining_) return;
  serving_[model] = serving;
  for (auto* service : services_) service->SetServingStatus(model, serving);
}

void HealthBoard::Withdraw(const std::string& model) {
  {
    std::lock_guard lock(mutex_);
    if (serving_.count(model) == 0) return;
  }
  Set(model, false);
}

void HealthBoard::Drain() {
  std::lock_guard lock(mutex_);
  draining_ = true;
  for (auto& [model, serving] : serving_) serving = false;
  for (auto* service : services_) service->Shutdown();
}

bool HealthBoard::serving() const {
  std::lock_guard lock(mutex_);
  return serving_.at("");
}

}  // namespace automodeld
