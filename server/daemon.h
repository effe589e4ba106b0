// The whole server in one object: registry, worker threads, gRPC listeners, health, reflection and HTTP.
//
//   ASSIGN_OR_RETURN(auto daemon, Daemon::Start(config, AutoModel::Load));
//   fmt::print("gRPC on {}\n", daemon->addresses().listen);
//   return daemon->Run();   // until SIGTERM or SIGINT; then drains and returns OK
//
// Draining: health goes NOT_SERVING and new calls answer UNAVAILABLE at once; running calls finish; those that still
// run after `drain_timeout` are ended with UNAVAILABLE. Loads in progress are stopped. More signals change nothing.
#ifndef SERVER_DAEMON_H_
#define SERVER_DAEMON_H_

#include <absl/status/statusor.h>
#include <absl/time/time.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "automodeld/v1/models.pb.h"
#include "core/auto_model.h"

namespace automodeld {

// What the daemon is told at its start. server/options.h fills it; the values here are the defaults.
struct DaemonConfig {
  // gRPC, "host:port"; port 0 takes a free one. All services answer here if it is loopback. If it is not, it needs
  // `insecure_listen`, and LoadModel and UnloadModel answer only on `admin_listen`.
  std::string listen = "127.0.0.1:50051";
  std::string admin_listen;                    // all services; empty: none
  std::string http_listen = "127.0.0.1:8080";  // /metrics, /healthz, /readyz; empty: none
  bool insecure_listen = false;                // allows addresses that are not loopback, unprotected
  std::filesystem::path model_root;            // LoadModel's `path` is beneath it; empty: LoadModel takes no path
  std::vector<v1::LoadModelRequest> models;    // loaded in this order at the start; their paths may be anywhere
  absl::Duration drain_timeout = absl::Seconds(45);
  int max_queue_size = 512;           // requests waiting per model, and calls waiting for a worker thread
  int worker_threads = 0;             // tokenizing and chat templates; 0: as many as there are cores, at most 16
  int max_message_bytes = 32 << 20;   // of one gRPC message
  int max_concurrent_streams = 1024;  // calls per connection
  // Told how far the loading of `models` is, on the loading thread; an empty phase: one of them has ended, well or not.
  std::function<void(const LoadProgress&)> progress;
  bool take_signals = true;  // Run ends on SIGTERM and SIGINT; false: they are left alone, and only Stop ends it
};

// Threads for tokenizing and chat templates: worker_threads, or what 0 stands for on this machine.
int NumWorkers(const DaemonConfig& config);

// Where it listens, with the ports in use. Empty where it does not.
struct DaemonAddresses {
  std::string listen;
  std::string admin_listen;
  std::string http_listen;
};

class Daemon {
 public:
  // Listens, answers, and begins to load config.models. INVALID_ARGUMENT names the option that is wrong; UNAVAILABLE
  // where it cannot listen. From here on SIGTERM and SIGINT are the daemon's, if config.take_signals.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(DaemonConfig config, LoadFunction load);
  ~Daemon();  // ends everything at once unless Run has drained

  // Blocks until a signal or Stop, then drains and returns OK. Returns an error, after ending everything, if one of
  // config.models cannot be loaded.
  absl::Status Run();

  // Makes Run drain and return. Any thread.
  void Stop();

  const DaemonAddresses& addresses() const;

  // True once all of config.models are loaded and until it drains. Any thread.
  bool serving() const;

 private:
  class Parts;
  explicit Daemon(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace automodeld

#endif  // SERVER_DAEMON_H_
