// One step's work, as the scheduler hands it to the runner: which sequences, which of their tokens, in which slots.
//
// Three segments in this order of rows: [decode | paged prefill | ragged]. A decode item is one token, which the runner
// takes from the slot: decode ids never come from the host. A paged item is a chunk of a prompt (or of a preempted
// sequence's prompt and completion) of a causal model. A ragged item is a whole input of an encoder and has no pages.
#ifndef CORE_ENGINE_BATCH_H_
#define CORE_ENGINE_BATCH_H_

#include <cstdint>
#include <span>
#include <vector>

#include "core/engine/request.h"

namespace automodeld {

using PageId = int32_t;  // page 0 is scratch: it belongs to nobody

// Spans point into the scheduler's state and are valid until Runner::Launch returns.
struct BatchItem {
  const Request* request = nullptr;
  int slot = 0;                        // 0..max_num_seqs-1; kept until the request ends or is preempted
  bool first = false;                  // first step of the request in this slot: the runner resets the slot
  int position = 0;                    // of the first token, 0-based
  int num_tokens = 0;                  // rows in this step; 1 for decode
  bool last = false;                   // after this step a token is sampled, or the vector is complete
  int num_generated = 0;               // tokens sampled so far: min_tokens
  std::span<const TokenId> token_ids;  // [num_tokens]; empty for decode
  std::span<const TokenId> context;    // prompt and completion so far, only where `first`: penalty counts
  std::span<const PageId> pages;       // page of token t is pages[t / page_size]; empty for ragged
};

struct Batch {
  std::vector<BatchItem> decode;
  std::vector<BatchItem> prefill;
  std::vector<BatchItem> ragged;

  bool empty() const { return decode.empty() && prefill.empty() && ragged.empty(); }
  size_t size() const { return decode.size() + prefill.size() + ragged.size(); }
};

// What a step gave one item: for kGenerate with `last` a token, for kEmbed with `last` a vector, else nothing.
struct ItemOutput {
  TokenId token = -1;
  TokenLogprob logprob;          // if asked for
  std::vector<float> embedding;  // pooled, cut to `dimensions`, normalised
};

struct StepOutput {
  std::vector<ItemOutput> items;  // as many as the batch had, in its order: decode, prefill, ragged
};

}  // namespace automodeld

#endif  // CORE_ENGINE_BATCH_H_
