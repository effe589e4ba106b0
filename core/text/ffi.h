// The C interface of the Rust library in src/ (crate automodeld_text). C++ code uses text.h instead.
//
// Every function catches panics. Those that can fail return a code with absl::StatusCode's number (0: OK) and fill
// `error` with a message; only then are the other results left as they were. Results must be empty (zeroed) on entry
// and are released by am_text_bytes_free or am_text_ids_free. Texts go in as pointer and size, need no NUL, and a
// pointer may be null if the size is 0. An AmTextTokenizer is immutable: any number of threads may use it at once. An
// AmTextStream belongs to one thread at a time, and keeps its tokenizer alive.
#ifndef CORE_TEXT_FFI_H_
#define CORE_TEXT_FFI_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct AmTextTokenizer AmTextTokenizer;
typedef struct AmTextStream AmTextStream;

typedef struct AmTextBytes {
  char* data;  // UTF-8
  size_t size;
  size_t capacity;
} AmTextBytes;

typedef struct AmTextIds {
  int32_t* data;
  size_t size;
  size_t capacity;
} AmTextIds;

// What is fixed once a tokenizer is loaded. -1: there is no such token.
typedef struct AmTextFacts {
  int32_t vocab_size;
  int32_t bos_id;
  int32_t eos_id;
  int32_t pad_id;
  int32_t model_max_length;  // 0: none
  int32_t has_chat_template;
  int32_t chat_takes_tools;
} AmTextFacts;

void am_text_bytes_free(AmTextBytes bytes);
void am_text_ids_free(AmTextIds ids);

int32_t am_text_tokenizer_load(const char* folder, size_t folder_size, AmTextTokenizer** tokenizer, AmTextFacts* facts,
                               AmTextBytes* error);
void am_text_tokenizer_free(AmTextTokenizer* tokenizer);

int32_t am_text_encode(const AmTextTokenizer* tokenizer, const char* text, size_t text_size, int32_t add_special_tokens,
                       AmTextIds* ids, AmTextBytes* error);
int32_t am_text_decode(const AmTextTokenizer* tokenizer, const int32_t* ids, size_t ids_size,
                       int32_t skip_special_tokens, AmTextBytes* text, AmTextBytes* error);
// -1: no token has this text.
int32_t am_text_token_to_id(const AmTextTokenizer* tokenizer, const char* token, size_t token_size);
int32_t am_text_render_chat(const AmTextTokenizer* tokenizer, const char* messages, size_t messages_size,
                            const char* tools, size_t tools_size, const char* extra, size_t extra_size,
                            int32_t add_generation_prompt, AmTextBytes* prompt, AmTextBytes* error);

// Null only if memory is out.
AmTextStream* am_text_stream_new(const AmTextTokenizer* tokenizer, int32_t skip_special_tokens);
int32_t am_text_stream_push(AmTextStream* stream, int32_t id, AmTextBytes* text, AmTextBytes* error);
int32_t am_text_stream_flush(AmTextStream* stream, AmTextBytes* text, AmTextBytes* error);
void am_text_stream_free(AmTextStream* stream);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // CORE_TEXT_FFI_H_
