#include <absl/strings/str_split.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "automodeld/v1/inference.grpc.pb.h"
#include "server/cli_command.h"
#include "server/interrupt.h"
#include "server/message_flags.h"
#include "server/message_json.h"
#include "server/similarity.h"

namespace automodeld {
namespace {

std::vector<float> Values(const v1::Embedding& embedding) {
  return {embedding.values().begin(), embedding.values().end()};
}

// "384 numbers  0.0123 -0.0456 0.0789 …"
std::string Summary(const v1::Embedding& embedding) {
  if (embedding.has_error()) return embedding.error().message();
  const std::vector<float> values = Values(embedding);
  const size_t shown = std::min<size_t>(values.size(), 4);
  return fmt::format("{} tokens, {} numbers: {:.4f}{}", embedding.num_tokens(), values.size(),
                     fmt::join(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(shown), " "),
                     values.size() > shown ? " …" : "");
}

class Embed {
 public:
  Embed(CLI::App& command, CommandLine& line)
      : terminal_(line.terminal),
        client_(command, line.program.environment),
        request_(command, *v1::EmbedRequest::descriptor(), {"model", "inputs", "encoding"}) {
    command.add_option("MODEL", model_, "Name of the model")->required();
    command.add_option("TEXT", texts_, "Texts; - reads one a line from stdin")->required();
    command.add_flag("--similarity", similarity_, "Print how similar the texts are to each other");
    command.add_flag("--json", json_, "Print each vector as a line of JSON");
  }

  int Run() {
    v1::EmbedRequest request;
    const absl::Status status = request_.Fill(&request);
    if (!status.ok()) return Misused(terminal_, std::string(status.message()));
    if (texts_ == std::vector<std::string>{"-"}) texts_ = absl::StrSplit(ReadAll(terminal_), '\n');
    request.set_model(model_);
    for (const std::string& text : texts_) request.add_inputs()->set_text(text);
    return Call(request);
  }

 private:
  int Call(const v1::EmbedRequest& request) {
    Interrupt interrupt;
    const auto context = client_.Context();
    const auto scope = interrupt.Cancels(context.get());
    v1::EmbedResponse response;
    const auto status = v1::InferenceService::NewStub(client_.Connect())->Embed(context.get(), request, &response);
    if (interrupt.seen()) return kExitInterrupted;
    if (!status.ok()) return client_.Finish(terminal_, status);
    Write(response);
    return ReportErrors(response);
  }

  void Write(const v1::EmbedResponse& response) {
    std::vector<std::vector<float>> vectors;
    std::vector<std::vector<std::string>> rows;
    for (int i = 0; i < response.embeddings_size(); ++i) {
      const v1::Embedding& embedding = response.embeddings(i);
      vectors.push_back(Values(embedding));
      rows.push_back({Shortened(texts_[static_cast<size_t>(i)], 40), Summary(embedding)});
      if (json_) terminal_.out << MessageToJson(embedding, false) << "\n";
    }
    if (!json_) terminal_.out << (similarity_ ? SimilarityTable(texts_, vectors) : Table(rows));
  }

  int ReportErrors(const v1::EmbedResponse& response) {
    int code = kExitOk;
    for (int i = 0; i < response.embeddings_size(); ++i) {
      if (!response.embeddings(i).has_error()) continue;
      const v1::InputError& error = response.embeddings(i).error();
      code = Fail(terminal_, absl::Status(static_cast<absl::StatusCode>(error.code()),
                                          fmt::format("text {}: {}", i + 1, error.message())));
    }
    return code;
  }

  Terminal& terminal_;
  ClientFlags client_;
  MessageFlags request_;
  std::string model_;
  std::vector<std::string> texts_;
  bool similarity_ = false;
  bool json_ = false;
};

}  // namespace

void AddEmbed(CommandLine& line) { AddCommand<Embed>(line, "embed", "Turns texts into vectors"); }

}  // namespace automodeld
