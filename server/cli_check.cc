#include <filesystem>
#include <string>
#include <vector>

#include "core/op_library.h"
#include "server/cli_command.h"
#include "server/cli_report.h"
#include "server/convert_load.h"
#include "server/logging.h"
#include "server/message_flags.h"
#include "server/message_json.h"

namespace automodeld {
namespace {

// A dry run of LoadModel in this process: no daemon is asked, no weights are read.
class Check {
 public:
  Check(CLI::App& command, CommandLine& line)
      : program_(line.program),
        terminal_(line.terminal),
        fields_(command, *v1::LoadModelRequest::descriptor(), {"path", "config_json", "check_only", "revision"}) {
    command.add_option("PATH", path_, "Checkpoint folder")->required();
    command.add_option("--op-library", op_libraries_, "Shared library whose operations --op-overrides may name")
        ->expected(1)
        ->allow_extra_args(false)
        ->type_name("FILE")
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    command.add_flag("--json", json_, "Print the report as JSON");
  }

  int Run() {
    v1::LoadModelRequest request;
    const absl::Status status = fields_.Fill(&request);
    if (!status.ok()) return Misused(terminal_, std::string(status.message()));
    request.set_path(path_);
    if (request.model().empty()) request.set_model("checkpoint");  // the folder's name need not be a model's
    request.set_check_only(true);
    const auto options = ToLoadOptions(request);
    if (!options.ok()) return Misused(terminal_, std::string(options.status().message()));
    return Load(*options);
  }

 private:
  int Load(const LoadOptions& options) {
    if (!std::filesystem::is_directory(path_)) return Fail(terminal_, absl::NotFoundError(path_ + ": no such folder"));
    SetUpLogging({.level = "error", .format = "text"}, terminal_);
    if (const absl::Status status = LoadOpLibraries(op_libraries_); !status.ok()) return Fail(terminal_, status);
    ProgressBar bar(terminal_);
    LoadContext context;
    context.progress = [&](const LoadProgress& progress) {
      bar.Show(progress.phase, progress.done_bytes, progress.total_bytes, progress.seconds);
    };
    const auto model = program_.load(options, context);
    bar.Clear();
    if (!model.ok()) return Fail(terminal_, model.status());
    const v1::LoadReport report = ToProto(model->report);
    terminal_.out << (json_ ? MessageToJson(report, true) + "\n" : ReportText(report)) << std::flush;
    return kExitOk;
  }

  const Program& program_;
  Terminal& terminal_;
  MessageFlags fields_;
  std::string path_;
  std::vector<std::string> op_libraries_;
  bool json_ = false;
};

}  // namespace

void AddCheck(CommandLine& line) {
  AddCommand<Check>(line, "check", "Says whether and how a checkpoint would be loaded; needs no daemon");
}

}  // namespace automodeld
