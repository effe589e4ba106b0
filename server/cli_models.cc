#include <fmt/format.h>

#include <memory>
#include <string>

#include "automodeld/v1/models.grpc.pb.h"
#include "server/cli_command.h"
#include "server/cli_report.h"
#include "server/interrupt.h"
#include "server/message_flags.h"
#include "server/message_json.h"

namespace automodeld {
namespace {

class Load {
 public:
  Load(CLI::App& command, CommandLine& line)
      : terminal_(line.terminal),
        client_(command, line.program.environment),
        fields_(command, *v1::LoadModelRequest::descriptor()) {
    command.add_option("PATH", path_, "Checkpoint folder beneath the daemon's --model-root");
    command.add_flag("--json", json_, "Print each message as a line of JSON");
  }

  int Run() {
    v1::LoadModelRequest request;
    const absl::Status status = fields_.Fill(&request);
    if (!status.ok()) return Misused(terminal_, std::string(status.message()));
    const int num_sources = (path_.empty() ? 0 : 1) + (request.source_case() == request.SOURCE_NOT_SET ? 0 : 1);
    if (num_sources != 1) return Misused(terminal_, "load: give PATH or --config-json, one of them");
    if (!path_.empty()) request.set_path(path_);
    return Call(request);
  }

 private:
  int Call(const v1::LoadModelRequest& request) {
    Interrupt interrupt;
    const auto context = client_.Context();
    const auto scope = interrupt.Cancels(context.get());
    const auto stub = v1::ModelService::NewStub(client_.Connect());
    const auto reader = stub->LoadModel(context.get(), request);
    Show(reader.get());
    const grpc::Status status = reader->Finish();
    return interrupt.seen() ? kExitInterrupted : client_.Finish(terminal_, status);
  }

  void Show(grpc::ClientReader<v1::LoadModelResponse>* reader) {
    ProgressBar bar(terminal_);
    for (v1::LoadModelResponse message; reader->Read(&message);) {
      if (json_) {
        terminal_.out << MessageToJson(message, false) << "\n" << std::flush;
      } else if (message.has_progress()) {
        const v1::LoadProgress& progress = message.progress();
        bar.Show(progress.phase(), progress.done_bytes(), progress.total_bytes(), progress.seconds());
      } else {
        bar.Clear();
        terminal_.out << ReportText(message.report()) << std::flush;
      }
    }
  }

  Terminal& terminal_;
  ClientFlags client_;
  MessageFlags fields_;
  std::string path_;
  bool json_ = false;
};

class Unload {
 public:
  Unload(CLI::App& command, CommandLine& line) : terminal_(line.terminal), client_(command, line.program.environment) {
    command.add_option("MODEL", model_, "Name of the model")->required();
    command.add_flag("--drain,!--no-drain", drain_, "Let running and waiting requests finish (the default), or not");
  }

  int Run() {
    Interrupt interrupt;
    v1::UnloadModelRequest request;
    request.set_model(model_);
    request.set_drain(drain_);
    v1::UnloadModelResponse response;
    const auto context = client_.Context();
    const auto scope = interrupt.Cancels(context.get());
    const auto status = v1::ModelService::NewStub(client_.Connect())->UnloadModel(context.get(), request, &response);
    return interrupt.seen() ? kExitInterrupted : client_.Finish(terminal_, status);
  }

 private:
  Terminal& terminal_;
  ClientFlags client_;
  std::string model_;
  bool drain_ = true;
};

class Models {
 public:
  Models(CLI::App& command, CommandLine& line) : terminal_(line.terminal), client_(command, line.program.environment) {
    command.add_option("MODEL", model_, "One model, with its load report; without it, a table of all");
    command.add_flag("--json", json_, "Print JSON");
  }

  int Run() {
    const auto stub = v1::ModelService::NewStub(client_.Connect());
    return model_.empty() ? List(*stub) : Get(*stub);
  }

 private:
  int List(v1::ModelService::Stub& stub) {
    v1::ListModelsResponse response;
    const auto status = stub.ListModels(client_.Context().get(), {}, &response);
    if (status.ok()) terminal_.out << (json_ ? MessageToJson(response, true) + "\n" : ModelsText(response));
    return client_.Finish(terminal_, status);
  }

  int Get(v1::ModelService::Stub& stub) {
    v1::GetModelRequest request;
    request.set_model(model_);
    v1::GetModelResponse response;
    const auto status = stub.GetModel(client_.Context().get(), request, &response);
    if (!status.ok()) return client_.Finish(terminal_, status);
    terminal_.out << (json_ ? MessageToJson(response, true) + "\n" : StatusText(response.status()));
    if (!json_ && response.has_report()) terminal_.out << ReportText(response.report());
    return kExitOk;
  }

  Terminal& terminal_;
  ClientFlags client_;
  std::string model_;
  bool json_ = false;
};

}  // namespace

void AddLoad(CommandLine& line) {
  AddCommand<Load>(line, "load", "Loads a checkpoint into the daemon; there is a flag for each field of LoadModel");
}

void AddUnload(CommandLine& line) { AddCommand<Unload>(line, "unload", "Takes a model out of service"); }

void AddModels(CommandLine& line) { AddCommand<Models>(line, "models", "Lists the models of the daemon"); }

}  // namespace automodeld
