#include "server/chat_json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/status.h"
#include "core/text/text.h"
#include "server/convert.h"

namespace automodeld {
namespace {

// Only looked at, never built as a tree: its depth is the client's choice. `accept` does not recurse.
bool IsJsonObject(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string::npos && text[first] == '{' && nlohmann::json::accept(text);
}

std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::Status CheckToolCall(const std::string& field, const v1::ToolCall& call) {
  if (call.name().empty()) return Missing(field + ".name");
  if (call.arguments().empty() || IsJsonObject(call.arguments())) return absl::OkStatus();
  return absl::InvalidArgumentError(field + ".arguments: not a JSON object");
}

absl::Status CheckMessage(const std::string& field, const v1::ChatMessage& message, const ModelInfo& info) {
  RETURN_IF_ERROR(CheckSize(field + ".role", message.role().size(), 1, 64, "bytes"));
  for (int i = 0; i < message.content_size(); ++i) {
    const std::string part = fmt::format("{}.content[{}]", field, i);
    if (message.content(i).has_image())
      return NotYet(part + ".image", fmt::format("an image for {}", info.architecture));
    if (!message.content(i).has_text()) return Missing(part + ".text");
  }
  RETURN_IF_ERROR(CheckSize(field + ".tool_calls", static_cast<size_t>(message.tool_calls_size()), 0, 128, "calls"));
  for (int i = 0; i < message.tool_calls_size(); ++i) {
    RETURN_IF_ERROR(CheckToolCall(fmt::format("{}.tool_calls[{}]", field, i), message.tool_calls(i)));
  }
  return absl::OkStatus();
}

absl::Status CheckTools(const v1::ChatPrompt& chat, const Tokenizer& tokenizer) {
  RETURN_IF_ERROR(CheckSize("chat.tools", static_cast<size_t>(chat.tools_size()), 0, 128, "tools"));
  for (int i = 0; i < chat.tools_size(); ++i) {
    if (!IsJsonObject(chat.tools(i))) {
      return absl::InvalidArgumentError(fmt::format("chat.tools[{}]: not a JSON object", i));
    }
  }
  if (chat.tools_size() > 0 && !tokenizer.chat_takes_tools()) {
    return absl::InvalidArgumentError("chat.tools: the model's chat template takes none");
  }
  return absl::OkStatus();
}

std::string ContentJson(const v1::ChatMessage& message) {
  std::string text;
  for (const v1::ContentPart& part : message.content()) {
    if (&part != &message.content(0)) text += '\n';
    text += part.text();
  }
  return Quoted(text);
}

std::string ToolCallsJson(const v1::ChatMessage& message) {
  std::string json;
  for (const v1::ToolCall& call : message.tool_calls()) {
    json += fmt::format(R"({}{{"id":{},"type":"function","function":{{"name":{},"arguments":{}}}}})",
                        json.empty() ? "" : ",", Quoted(call.id()), Quoted(call.name()),
                        call.arguments().empty() ? "{}" : call.arguments());
  }
  return json;
}

std::string MessageJson(const v1::ChatMessage& message) {
  std::string json = fmt::format(R"({{"role":{},"content":{})", Quoted(message.role()), ContentJson(message));
  if (message.tool_calls_size() > 0) json += fmt::format(R"(,"tool_calls":[{}])", ToolCallsJson(message));
  if (!message.tool_call_id().empty()) json += fmt::format(R"(,"tool_call_id":{})", Quoted(message.tool_call_id()));
  return json + "}";
}

}  // namespace

absl::Status CheckChat(const v1::ChatPrompt& chat, const ServedModel& model) {
  const ModelInfo& info = model.report.info;
  if (!info.has_chat_template) {
    return absl::FailedPreconditionError(fmt::format("model \"{}\" has no chat template", info.model));
  }
  RETURN_IF_ERROR(CheckSize("chat.messages", static_cast<size_t>(chat.messages_size()), 1, 4096, "messages"));
  RETURN_IF_ERROR(CheckSize("chat", chat.ByteSizeLong(), 0, kMaxTextBytes, "bytes"));
  for (int i = 0; i < chat.messages_size(); ++i) {
    RETURN_IF_ERROR(CheckMessage(fmt::format("chat.messages[{}]", i), chat.messages(i), info));
  }
  return CheckTools(chat, *model.tokenizer);
}

std::string ChatMessagesJson(const v1::ChatPrompt& chat) {
  std::string json;
  for (const v1::ChatMessage& message : chat.messages()) json += (json.empty() ? "" : ",") + MessageJson(message);
  return "[" + json + "]";
}

std::string ChatToolsJson(const v1::ChatPrompt& chat) {
  if (chat.tools_size() == 0) return "";
  std::string json;
  for (const std::string& tool : chat.tools()) json += (json.empty() ? "" : ",") + tool;
  return "[" + json + "]";
}

}  // namespace automodeld
