// What the daemon says about itself: grpc.health.v1 on every listener, one entry per model and "" for the whole, and
// /readyz over HTTP.
//
//   HealthBoard health;
//   health.Attach(server->GetHealthCheckService());
//   health.Set("llama", true);
//   health.Set("", true);
//   health.Drain();  // everything NOT_SERVING, whatever is set later
//
// Any thread.
#ifndef SERVER_HEALTH_H_
#define SERVER_HEALTH_H_

#include <grpcpp/health_check_service_interface.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace automodeld {

class HealthBoard {
 public:
  // Shows all that is known there, and keeps it up to date; `service` must outlive the calls to this board.
  void Attach(grpc::HealthCheckServiceInterface* service);

  // Serving or not; "" is the daemon as a whole, which is not serving until it is set.
  void Set(const std::string& model, bool serving);

  // Not serving, if there is an entry. grpc's service cannot let go of one, so clients that make up names must not be
  // able to add any.
  void Withdraw(const std::string& model);

  void Drain();

  bool serving() const;  // the daemon as a whole

 private:
  mutable std::mutex mutex_;
  std::vector<grpc::HealthCheckServiceInterface*> services_;
  std::map<std::string, bool> serving_ = {{"", false}};
  bool draining_ = false;
};

}  // namespace automodeld

#endif  // SERVER_HEALTH_H_
