#include "server/daemon.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <optional>
#include <thread>
#include <utility>

#include "core/guarded.h"
#include "core/metrics.h"
#include "core/model_registry.h"
#include "core/status.h"
#include "server/address.h"
#include "server/call_gate.h"
#include "server/convert_load.h"
#include "server/health.h"
#include "server/http.h"
#include "server/listener.h"
#include "server/load_log.h"
#include "server/model_path.h"
#include "server/worker_pool.h"

namespace automodeld {
namespace {

constexpr int kLoaderThreads = 4;
constexpr auto kCancelGrace = std::chrono::seconds(5);    // for calls that were ended to say so to their clients
constexpr auto kShutdownGrace = absl::Milliseconds(200);  // for the last bytes to leave

absl::StatusOr<bool> IsLoopback(std::string_view option, const std::string& text) {
  const auto address = ParseAddress(text);
  if (!address.ok()) return Prefixed(fmt::format("--{}: ", option), address.status());
  return IsLoopback(*address);
}

absl::Status CheckAddress(std::string_view option, const std::string& text, bool insecure_listen) {
  if (text.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool loopback, IsLoopback(option, text));
  if (loopback || insecure_listen) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format(
      "--{}: {} can be reached from other machines without protection; --insecure-listen allows that", option, text));
}

absl::Status CheckAddresses(const DaemonConfig& config) {
  if (config.listen.empty()) return absl::InvalidArgumentError("--listen: must be given");
  RETURN_IF_ERROR(CheckAddress("listen", config.listen, config.insecure_listen));
  RETURN_IF_ERROR(CheckAddress("admin-listen", config.admin_listen, config.insecure_listen));
  return CheckAddress("http-listen", config.http_listen, config.insecure_listen);
}

// As messages name a model of config.models.
std::string NameAndSource(const v1::LoadModelRequest& request) {
  const std::string source = request.has_path() ? request.path() : "its config_json";
  return request.model().empty() ? fmt::format("model of {}", source)
                                 : fmt::format("model \"{}\" of {}", request.model(), source);
}

// A folder anywhere on the machine, or a Hub id in the cache that --model-root is.
absl::StatusOr<std::string> FolderOf(const LoadOptions& options, const std::filesystem::path& model_root) {
  const bool is_folder =
      std::filesystem::path(options.path).is_absolute() || std::filesystem::is_directory(options.path);
  if (options.path.empty() || (options.revision.empty() && (is_folder || model_root.empty()))) return options.path;
  ASSIGN_OR_RETURN(const std::filesystem::path folder, ResolveModelPath(model_root, options.path, options.revision));
  return folder.string();
}

}  // namespace

int NumWorkers(const DaemonConfig& config) {
  if (config.worker_threads > 0) return config.worker_threads;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 2, 16);
}

class Daemon::Parts {
 public:
  Parts(DaemonConfig config, LoadFunction load);
  ~Parts();

  absl::Status Start();
  absl::Status Run();
  void Stop() { loop_.stop(); }

  const DaemonAddresses& addresses() const { return addresses_; }
  bool serving() const { return health_.serving(); }

 private:
  absl::Status StartListeners();
  absl::Status StartHttp();
  void AwaitSignal();
  void LoadModels();
  absl::Status LoadModel(const v1::LoadModelRequest& request);
  void RefuseCalls();
  void Drain();
  void End(absl::Duration grace);

  const DaemonConfig config_;
  DaemonAddresses addresses_;
  boost::asio::io_context loop_{1};  // Run's: waits for the end
  boost::asio::signal_set signals_{loop_};
  std::optional<absl::Status> failure_;  // of a model in config_.models; set and read on Run's thread
  std::atomic<bool> stopping_ = false;   // stops the loading of config_.models
  bool drained_ = false;

  Metrics metrics_;
  HealthBoard health_;
  CallGate gate_;
  LoadsInProgress loads_;
  ModelRegistry registry_;
  WorkerPool workers_;
  WorkerPool loaders_;
  WorkerPool large_texts_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<Listener> admin_listener_;
  std::unique_ptr<Listener> listener_;
};

Daemon::Parts::Parts(DaemonConfig config, LoadFunction load)
    : config_(std::move(config)),
      registry_(std::move(load), EngineOptions{.max_queue_size = config_.max_queue_size}, &metrics_),
      workers_(NumWorkers(config_), config_.max_queue_size),
      loaders_(kLoaderThreads, config_.max_queue_size),
      large_texts_(1, config_.max_queue_size) {
  registry_.SetListener([this](const std::string& model, const ModelState* state) {
    state != nullptr&&* state == ModelState::kReady ? health_.Set(model, true) : health_.Withdraw(model);
  });
}

// A signal that comes from here on finds the process on its way out, and may not change how it ends.
Daemon::Parts::~Parts() {
  End(absl::ZeroDuration());
  if (!drained_ || !config_.take_signals) return;
  boost::system::error_code ignored;
  signals_.clear(ignored);
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGTERM, SIG_IGN);
}

absl::Status Daemon::Parts::Start() {
  if (config_.take_signals) AwaitSignal();
  RETURN_IF_ERROR(CheckAddresses(config_));
  RETURN_IF_ERROR(StartListeners());
  RETURN_IF_ERROR(StartHttp());
  if (!loaders_.Post([this] { LoadModels(); })) return absl::InvalidArgumentError("--max-queue-size: 0 is too small");
  return absl::OkStatus();
}

absl::Status Daemon::Parts::StartListeners() {
  const Services services{&registry_, &metrics_, &gate_, &workers_, &loaders_, &large_texts_};
  const ListenerLimits limits{config_.max_message_bytes, config_.max_concurrent_streams};
  ASSIGN_OR_RETURN(const bool loopback, IsLoopback("listen", config_.listen));
  const ModelServiceOptions models{.model_root = config_.model_root, .read_only = !loopback};
  auto listener = Listener::Start(config_.listen, limits, services, models, &loads_);
  RETURN_IF_ERROR(Prefixed("--listen: ", listener.status()));
  listener_ = *std::move(listener);
  health_.Attach(listener_->health());
  addresses_.listen = listener_->address();
  if (config_.admin_listen.empty()) return absl::OkStatus();
  const ModelServiceOptions all{.model_root = config_.model_root};
  auto admin_listener = Listener::Start(config_.admin_listen, limits, services, all, &loads_);
  RETURN_IF_ERROR(Prefixed("--admin-listen: ", admin_listener.status()));
  admin_listener_ = *std::move(admin_listener);
  health_.Attach(admin_listener_->health());
  addresses_.admin_listen = admin_listener_->address();
  return absl::OkStatus();
}

absl::Status Daemon::Parts::StartHttp() {
  if (config_.http_listen.empty()) return absl::OkStatus();
  HttpPages pages{.metrics = [this] { return metrics_.Serialize(); }, .ready = [this] { return health_.serving(); }};
  auto http = HttpServer::Start(config_.http_listen, std::move(pages));
  RETURN_IF_ERROR(Prefixed("--http-listen: ", http.status()));
  http_ = *std::move(http);
  addresses_.http_listen = http_->address();
  return absl::OkStatus();
}

// asio's handler only writes to a pipe; the rest happens on Run's thread. The set stays armed while that drains.
void Daemon::Parts::AwaitSignal() {
  signals_.add(SIGINT);
  signals_.add(SIGTERM);
  signals_.async_wait([this](const boost::system::error_code& error, int signal) {
    if (error) return;
    spdlog::info("signal {}: draining, for at most {}", signal, absl::FormatDuration(config_.drain_timeout));
    loop_.stop();
  });
}

void Daemon::Parts::LoadModels() {
  for (const v1::LoadModelRequest& request : config_.models) {
    const absl::Status status = Guarded([&] { return LoadModel(request); });
    if (status.ok()) continue;
    if (stopping_) return;
    boost::asio::post(loop_, [this, status] {
      failure_ = status;
      loop_.stop();
    });
    return;
  }
  health_.Set("", true);
}

absl::Status Daemon::Parts::LoadModel(const v1::LoadModelRequest& request) {
  const std::string prefix = NameAndSource(request) + ": ";
  auto options = ToLoadOptions(request);
  if (!options.ok()) return Prefixed(prefix, options.status());
  const auto folder = FolderOf(*options, config_.model_root);
  if (!folder.ok()) return Prefixed(prefix, folder.status());
  options->path = *folder;
  health_.Set(options->model, false);
  LoadContext context;
  context.cancelled = &stopping_;
  if (config_.progress) context.progress = config_.progress;
  const auto report = registry_.Load(*options, context);
  if (config_.progress) config_.progress({});
  if (report.ok()) LogLoaded(*report, false);
  return Prefixed(prefix, report.status());
}

absl::Status Daemon::Parts::Run() {
  const auto guard = boost::asio::make_work_guard(loop_);
  loop_.run();
  if (failure_) {
    End(absl::ZeroDuration());
    return *failure_;
  }
  Drain();
  return absl::OkStatus();
}

void Daemon::Parts::RefuseCalls() {
  gate_.Close();
  health_.Drain();
  stopping_ = true;
  loads_.StopAll();
}

void Daemon::Parts::Drain() {
  RefuseCalls();
  const auto deadline = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(config_.drain_timeout);
  if (!gate_.WaitIdle(deadline)) {
    spdlog::warn("drain: {} calls still run after --drain-timeout {} and are ended", gate_.calls(),
                 absl::FormatDuration(config_.drain_timeout));
    registry_.Drain(absl::InfinitePast());
    gate_.WaitIdle(std::chrono::steady_clock::now() + kCancelGrace);
  }
  End(kShutdownGrace);
  drained_ = true;
}

void Daemon::Parts::End(absl::Duration grace) {
  RefuseCalls();
  registry_.Drain(absl::InfinitePast());
  if (listener_ != nullptr) listener_->Shutdown(grace);
  if (admin_listener_ != nullptr) admin_listener_->Shutdown(grace);
  workers_.Join();
  loaders_.Join();
  large_texts_.Join();
}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(DaemonConfig config, LoadFunction load) {
  auto parts = std::make_unique<Parts>(std::move(config), std::move(load));
  RETURN_IF_ERROR(parts->Start());
  return std::unique_ptr<Daemon>(new Daemon(std::move(parts)));
}

Daemon::Daemon(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Daemon::~Daemon() = default;

absl::Status Daemon::Run() { return parts_->Run(); }
void Daemon::Stop() { parts_->Stop(); }
const DaemonAddresses& Daemon::addresses() const { return parts_->addresses(); }
bool Daemon::serving() const { return parts_->serving(); }

}  // namespace automodeld
