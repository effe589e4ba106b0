// The scheduler's record of one request, from Add until its last step has landed.
#ifndef CORE_ENGINE_SEQUENCE_H_
#define CORE_ENGINE_SEQUENCE_H_

#include <absl/time/time.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/engine/batch.h"
#include "core/engine/request.h"

namespace automodeld {

struct Sequence {
  static constexpr int kNoSlot = -1;

  std::shared_ptr<Request> request;
  int64_t order = 0;            // of arrival
  std::vector<TokenId> tokens;  // prompt, then the completion as far as it has landed
  std::vector<PageId> pages;    // page of token t is pages[t / page_size]
  absl::Time first_step = absl::InfiniteFuture();
  int slot = kNoSlot;       // kNoSlot: waiting
  int prefill_length = 0;   // tokens to prefill in this slot: the prompt, after preemption the completion too
  int computed = 0;         // tokens whose steps were launched in this slot
  int sampled = 0;          // tokens of the completion, those of launched steps included
  int max_sampled = 0;      // 0 for kEmbed
  int in_flight = 0;        // launched steps that it is in and that have not landed
  int64_t last_decode = 0;  // step in which it decoded last
  bool listed = false;      // among the running or the waiting
  bool ended = false;

  bool prefilling() const { return slot != kNoSlot && computed < prefill_length; }
  bool decodable() const { return slot != kNoSlot && computed >= prefill_length && sampled < max_sampled; }
  int num_completed() const { return static_cast<int>(tokens.size() - request->prompt.size()); }
};

// The order of service: priority, then arrival.
inline bool ServedBefore(const Sequence* a, const Sequence* b) {
  if (a->request->priority != b->request->priority) return a->request->priority > b->request->priority;
  return a->order < b->order;
}

}  // namespace automodeld

#endif  // CORE_ENGINE_SEQUENCE_H_
