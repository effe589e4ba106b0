#include <absl/strings/numbers.h>
#include <absl/strings/str_split.h>
#include <fmt/format.h>

#include <map>
#include <memory>
#include <string>

#include "automodeld/v1/inference.grpc.pb.h"
#include "server/cli_command.h"
#include "server/interrupt.h"
#include "server/message_flags.h"
#include "server/message_json.h"

namespace automodeld {
namespace {

// Writes a stream of answers as they come. With several completions each is written whole when it ends.
class Answers {
 public:
  Answers(Terminal& terminal, bool json, int num_completions)
      : terminal_(terminal), json_(json), num_completions_(num_completions) {}

  void Write(const v1::GenerateResponse& message) {
    if (message.has_usage()) usage_ = message.usage();  // and nothing else
    if (json_) {
      terminal_.out << MessageToJson(message, false) << "\n";
    } else if (num_completions_ > 1) {
      if (!message.has_usage()) Collect(message);
    } else {
      terminal_.out << message.text();
      if (!message.text().empty()) last_ = message.text().back();
    }
    terminal_.out << std::flush;
  }

  // Ends the line, and writes what there is of completions that did not end.
  void Close(bool ok) {
    if (json_) return;
    for (const auto& [index, text] : texts_) WriteWhole(index, text);
    const bool begun = ok || last_ != '\0';
    if (num_completions_ == 1 && begun && last_ != '\n') terminal_.out << "\n";
    terminal_.out << std::flush;
  }

  // What was used, for someone who watches.
  void ShowUsage() {
    if (json_) return;
    if (!terminal_.err_is_terminal || usage_.completion_tokens() == 0) return;
    const double seconds = usage_.decode_seconds();
    const double rate = seconds > 0 ? (usage_.completion_tokens() - 1) / seconds : 0;
    terminal_.err << fmt::format("{} tokens in, {} out; first after {:.0f} ms, then {:.0f} tokens/s\n",
                                 usage_.prompt_tokens(), usage_.completion_tokens(),
                                 1e3 * (usage_.queue_seconds() + usage_.prefill_seconds()), rate);
  }

 private:
  void Collect(const v1::GenerateResponse& message) {
    std::string& text = texts_[message.index()];
    text += message.text();
    if (message.finish_reason() == v1::FINISH_REASON_UNSPECIFIED) return;
    WriteWhole(message.index(), text);
    texts_.erase(message.index());
  }

  void WriteWhole(int index, const std::string& text) {
    terminal_.out << terminal_.Bold(fmt::format("[{}] ", index)) << text << "\n";
  }

  Terminal& terminal_;
  const bool json_;
  const int num_completions_;
  char last_ = '\0';
  std::map<int, std::string> texts_;  // of completions that have not ended
  v1::Usage usage_;
};

class Generate {
 public:
  Generate(CLI::App& command, CommandLine& line)
      : terminal_(line.terminal),
        client_(command, line.program.environment),
        sampling_(command, *v1::SamplingParams::descriptor()),
        request_(command, *v1::GenerateRequest::descriptor(), {"model", "text", "token_ids", "chat", "sampling"}) {
    command.add_option("MODEL", model_, "Name of the model")->required();
    CLI::Option* prompt = command.add_option("PROMPT", prompt_, "Text to go on from; - reads it from stdin");
    CLI::Option* ids = command.add_option("--token-ids", token_ids_, "Tokens to go on from, such as 1,15043,3186");
    command.add_flag("--chat", chat_, "Take PROMPT as the user's turn of a conversation")->excludes(ids);
    command.add_option("--system", system_, "With --chat: the system's turn before it");
    command.add_flag("--json", json_, "Print each message as a line of JSON");
    prompt->excludes(ids);
    ids->type_name("NUMBER,...");
  }

  int Run() {
    v1::GenerateRequest request;
    for (const absl::Status& status :
         {request_.Fill(&request), sampling_.Fill(request.mutable_sampling()), FillPrompt(&request)}) {
      if (!status.ok()) return Misused(terminal_, std::string(status.message()));
    }
    request.set_model(model_);
    return Call(request);
  }

 private:
  absl::Status FillPrompt(v1::GenerateRequest* request) {
    if (!token_ids_.empty()) return FillTokens(request->mutable_token_ids());
    if (prompt_.empty()) return absl::InvalidArgumentError("generate: give PROMPT or --token-ids");
    if (!system_.empty() && !chat_) return absl::InvalidArgumentError("--system: only with --chat");
    const std::string text = prompt_ == "-" ? ReadAll(terminal_) : prompt_;
    if (!chat_) {
      request->set_text(text);
      return absl::OkStatus();
    }
    if (!system_.empty()) AddTurn(request, "system", system_);
    AddTurn(request, "user", text);
    return absl::OkStatus();
  }

  absl::Status FillTokens(v1::TokenIds* tokens) const {
    for (const auto text : absl::StrSplit(token_ids_, ',')) {
      int32_t id = 0;
      if (!absl::SimpleAtoi(text, &id)) {
        return absl::InvalidArgumentError(fmt::format("--token-ids: \"{}\" is not a whole number", std::string(text)));
      }
      tokens->add_ids(id);
    }
    return absl::OkStatus();
  }

  static void AddTurn(v1::GenerateRequest* request, const std::string& role, const std::string& text) {
    v1::ChatMessage* message = request->mutable_chat()->add_messages();
    message->set_role(role);
    message->add_content()->set_text(text);
  }

  int Call(const v1::GenerateRequest& request) {
    Interrupt interrupt;
    const auto context = client_.Context();
    const auto scope = interrupt.Cancels(context.get());
    const auto stub = v1::InferenceService::NewStub(client_.Connect());
    const auto reader = stub->Generate(context.get(), request);
    Answers answers(terminal_, json_, request.sampling().has_n() ? request.sampling().n() : 1);
    for (v1::GenerateResponse message; reader->Read(&message);) answers.Write(message);
    const grpc::Status status = reader->Finish();
    answers.Close(status.ok());
    if (status.ok()) answers.ShowUsage();
    return interrupt.seen() ? kExitInterrupted : client_.Finish(terminal_, status);
  }

  Terminal& terminal_;
  ClientFlags client_;
  MessageFlags sampling_;
  MessageFlags request_;
  std::string model_;
  std::string prompt_;
  std::string token_ids_;
  std::string system_;
  bool chat_ = false;
  bool json_ = false;
};

}  // namespace

void AddGenerate(CommandLine& line) {
  AddCommand<Generate>(line, "generate", "Goes on from a prompt, writing the text as it comes");
}

}  // namespace automodeld
