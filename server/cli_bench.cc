#include <absl/status/statusor.h>
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "automodeld/v1/inference.grpc.pb.h"
#include "automodeld/v1/models.grpc.pb.h"
#include "server/bench.h"
#include "server/cli_command.h"
#include "server/interrupt.h"

namespace automodeld {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxChannels = 16;  // a connection carries the calls of several clients

double Since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string CodeName(const grpc::Status& status) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code()));
}

struct BenchPlan {
  std::string model;
  std::string mode = "generate";
  int concurrency = 1;
  int requests = 64;
  int warmup = -1;  // negative: as many as concurrency
  int input_tokens = 32;
  int output_tokens = 64;
  int batch = 1;
  uint64_t seed = 0;
  std::vector<std::string> texts;  // empty: random tokens
  int vocab_size = 0;
};

// The `index`-th prompt, the same in every run: one of the texts, or random tokens.
template <typename Input>
void FillInput(const BenchPlan& plan, uint64_t index, Input* input) {
  if (!plan.texts.empty()) return input->set_text(plan.texts[index % plan.texts.size()]);
  // Quickly seeded: a batch takes thousands of them. The upper half of the product is well mixed.
  std::minstd_rand random(static_cast<uint32_t>((plan.seed + index + 1) * 0x9E3779B97F4A7C15U >> 32U));
  std::uniform_int_distribution<int32_t> token(0, plan.vocab_size - 1);
  for (int i = 0; i < plan.input_tokens; ++i) input->mutable_token_ids()->add_ids(token(random));
}

v1::GenerateRequest ToGenerate(const BenchPlan& plan, uint64_t index) {
  v1::GenerateRequest request;
  request.set_model(plan.model);
  FillInput(plan, index, &request);
  request.mutable_sampling()->set_max_tokens(plan.output_tokens);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

v1::EmbedRequest ToEmbed(const BenchPlan& plan, uint64_t index) {
  v1::EmbedRequest request;
  request.set_model(plan.model);
  const auto batch = static_cast<uint64_t>(plan.batch);
  for (uint64_t i = 0; i < batch; ++i) FillInput(plan, index * batch + i, request.add_inputs());
  return request;
}

// Tokens that came in one message share the time since the one before.
void AddTokens(int count, double now, double& last, BenchResult& result) {
  if (count == 0) return;
  if (result.first_token < 0) {
    result.first_token = now;
  } else {
    result.inter_token.insert(result.inter_token.end(), static_cast<size_t>(count), (now - last) / count);
  }
  result.output_tokens += count;
  last = now;
}

grpc::Status RunGenerate(v1::InferenceService::Stub& stub, grpc::ClientContext* context,
                         const v1::GenerateRequest& request, BenchResult& result) {
  const Clock::time_point start = Clock::now();
  double last = 0;
  const auto reader = stub.Generate(context, request);
  for (v1::GenerateResponse message; reader->Read(&message);) {
    AddTokens(message.token_ids_size(), Since(start), last, result);
    if (message.has_usage()) result.input_tokens = message.usage().prompt_tokens();
  }
  const grpc::Status status = reader->Finish();
  result.latency = Since(start);
  return status;
}

grpc::Status RunEmbed(v1::InferenceService::Stub& stub, grpc::ClientContext* context, const v1::EmbedRequest& request,
                      BenchResult& result) {
  const Clock::time_point start = Clock::now();
  v1::EmbedResponse response;
  const grpc::Status status = stub.Embed(context, request, &response);
  result.latency = Since(start);
  result.inputs = response.embeddings_size();
  result.input_tokens = response.usage().prompt_tokens();
  for (const v1::Embedding& embedding : response.embeddings()) {
    if (embedding.has_error())
      return {static_cast<grpc::StatusCode>(embedding.error().code()), embedding.error().message()};
  }
  return status;
}

// A closed loop: so many clients, each of which has one call in progress at all times.
class ClosedLoop {
 public:
  ClosedLoop(const BenchPlan& plan, const ClientFlags& client, Interrupt& interrupt, Terminal& terminal)
      : plan_(plan), client_(client), interrupt_(interrupt), bar_(terminal) {
    for (int i = 0; i < std::min(plan.concurrency, kMaxChannels); ++i) channels_.push_back(client.Connect());
  }

  // Returns when `num_calls` calls have ended, or one was interrupted.
  void Run(uint64_t first, int num_calls, const std::string& what) {
    next_ = 0;
    start_ = Clock::now();
    std::vector<std::thread> clients;
    const int num_clients = std::min(plan_.concurrency, num_calls);
    clients.reserve(static_cast<size_t>(num_clients));
    for (int i = 0; i < num_clients; ++i) {
      const auto& channel = channels_[static_cast<size_t>(i) % channels_.size()];
      clients.emplace_back([=, this] { Client(channel, first, num_calls, what); });
    }
    for (std::thread& client : clients) client.join();
    seconds_ = Since(start_);
    bar_.Clear();
  }

  BenchSummary Summary() const { return samples_->Summarise(seconds_); }
  void Forget() { samples_ = std::make_unique<BenchSamples>(); }
  std::string first_error() const { return first_error_; }

 private:
  void Client(const std::shared_ptr<grpc::Channel>& channel, uint64_t first, int num_calls, const std::string& what) {
    const auto stub = v1::InferenceService::NewStub(channel);
    for (int call = next_++; call < num_calls && !interrupt_.seen(); call = next_++) {
      Add(Call(*stub, first + static_cast<uint64_t>(call)));
      Show(what, call, num_calls);
    }
  }

  BenchResult Call(v1::InferenceService::Stub& stub, uint64_t index) {
    BenchResult result;
    const auto context = client_.Context();
    const auto scope = interrupt_.Cancels(context.get());
    const grpc::Status status = plan_.mode == "embed"
                                    ? RunEmbed(stub, context.get(), ToEmbed(plan_, index), result)
                                    : RunGenerate(stub, context.get(), ToGenerate(plan_, index), result);
    if (status.ok()) return result;
    result.error = CodeName(status);
    const std::lock_guard lock(mutex_);
    if (first_error_.empty()) first_error_ = result.error + ": " + status.error_message();
    return result;
  }

  void Add(const BenchResult& result) { samples_->Add(result); }

  void Show(const std::string& what, int done, int total) {
    const std::lock_guard lock(mutex_);
    if (Since(shown_) < 0.1) return;
    shown_ = Clock::now();
    bar_.ShowCount(what, done, total, Since(start_));
  }

  const BenchPlan& plan_;
  const ClientFlags& client_;
  Interrupt& interrupt_;
  ProgressBar bar_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::unique_ptr<BenchSamples> samples_ = std::make_unique<BenchSamples>();
  std::atomic<int> next_ = 0;
  Clock::time_point start_;
  double seconds_ = 0;
  std::mutex mutex_;
  Clock::time_point shown_;
  std::string first_error_;
};

class Bench {
 public:
  Bench(CLI::App& command, CommandLine& line) : terminal_(line.terminal), client_(command, line.program.environment) {
    const auto number = [&](const char* flag, auto& target, const char* help, int lo, int hi) {
      command.add_option(flag, target, help)->type_name("NUMBER")->capture_default_str()->check(CLI::Range(lo, hi));
    };
    command.add_option("--model", plan_.model, "Name of the model")->required();
    command.add_option("--mode", plan_.mode, "Which RPC")
        ->capture_default_str()
        ->check(CLI::IsMember({"generate", "embed"}));
    number("--concurrency", plan_.concurrency, "Calls in progress at a time", 1, 4096);
    number("--requests", plan_.requests, "Calls that are measured", 1, 1'000'000'000);
    number("--warmup", plan_.warmup, "Calls before these; -1: as many as --concurrency", -1, 1'000'000);
    number("--input-tokens", plan_.input_tokens, "Random tokens of each prompt", 1, 1'048'576);
    number("--output-tokens", plan_.output_tokens, "Tokens each call makes, past any end of sequence", 1, 1'048'576);
    number("--batch", plan_.batch, "With --mode embed: inputs of each call", 1, 2048);
    command.add_option("--seed", plan_.seed, "Seed of the random tokens")->type_name("NUMBER")->capture_default_str();
    command.add_option("--text", plan_.texts, "Prompt instead of random tokens; repeatable, used in turn")
        ->type_name("TEXT")
        ->expected(1)
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    command.add_flag("--json", json_, "Print JSON");
  }

  int Run() {
    Interrupt interrupt;
    const grpc::Status status = FindVocabulary();
    if (!status.ok()) return client_.Finish(terminal_, status);
    ClosedLoop loop(plan_, client_, interrupt, terminal_);
    const int warmup = plan_.warmup < 0 ? plan_.concurrency : plan_.warmup;
    loop.Run(0, warmup, "warm-up");
    loop.Forget();
    if (!interrupt.seen()) loop.Run(static_cast<uint64_t>(warmup), plan_.requests, "requests");
    if (interrupt.seen()) return kExitInterrupted;
    return Report(loop);
  }

 private:
  grpc::Status FindVocabulary() {
    v1::GetModelRequest request;
    request.set_model(plan_.model);
    v1::GetModelResponse response;
    const auto stub = v1::ModelService::NewStub(client_.Connect());
    const grpc::Status status = stub->GetModel(client_.Context().get(), request, &response);
    plan_.vocab_size = response.status().info().vocab_size();
    if (!status.ok() || plan_.vocab_size > 0) return status;
    return {grpc::StatusCode::UNAVAILABLE, fmt::format("model \"{}\" is not ready", plan_.model)};
  }

  int Report(const ClosedLoop& loop) {
    const BenchSummary summary = loop.Summary();
    terminal_.out << (json_ ? summary.ToJson() + "\n" : summary.ToText()) << std::flush;
    if (summary.errors == 0) return kExitOk;
    terminal_.err << "automodeld: " << loop.first_error() << "\n";
    return kExitFailed;
  }

  Terminal& terminal_;
  ClientFlags client_;
  BenchPlan plan_;
  bool json_ = false;
};

}  // namespace

void AddBench(CommandLine& line) {
  AddCommand<Bench>(line, "bench", "Measures throughput and latency of a model in a closed loop of calls");
}

}  // namespace automodeld
