// Conversations, as the JSON that Hugging Face's chat templates read.
//
//   RETURN_IF_ERROR(CheckChat(chat, model));
//   tokenizer.RenderChat(ChatMessagesJson(chat), ChatToolsJson(chat));
#ifndef SERVER_CHAT_JSON_H_
#define SERVER_CHAT_JSON_H_

#include <absl/status/status.h>

#include <string>

#include "automodeld/v1/inference.pb.h"
#include "core/model_registry.h"

namespace automodeld {

// Ranges of ChatPrompt, and that tools and arguments are JSON objects. FAILED_PRECONDITION if the model has no chat
// template, UNIMPLEMENTED for images. INVALID_ARGUMENT for tools that the template would drop. The model has a
// tokenizer.
absl::Status CheckChat(const v1::ChatPrompt& chat, const ServedModel& model);

// [{"role": …, "content": …, "tool_calls": …, "tool_call_id": …}, …]. The text parts of a message are joined by line
// breaks into one string, which is what templates of text models expect. Call only after CheckChat.
std::string ChatMessagesJson(const v1::ChatPrompt& chat);

// The JSON array of tools; empty if there are none.
std::string ChatToolsJson(const v1::ChatPrompt& chat);

}  // namespace automodeld

#endif  // SERVER_CHAT_JSON_H_
