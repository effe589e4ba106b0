// Decides what runs in each step of a model. Pure policy: no tensors, no threads, and time is an argument.
//
//   Scheduler scheduler(runner->limits());
//   scheduler.Add(request);                              // CheckAdmissible must have passed
//   const Batch& batch = scheduler.Next(absl::Now());    // what to launch; may be empty
//   scheduler.Land(step->Wait(), absl::Now());           // results, in the order of the launches
//   Deliver(scheduler.events());                         // what became of the requests; the reader clears it
//
// Next, in this order:
//   1. ends what was cancelled or has expired, in the queue, in prefill and in decode: its pages are free at once, even
//      while a launched step still holds it, because later launches run after that step;
//   2. gives a page to each decoding sequence that reached the end of its last one. When none is left, the youngest
//      sequence of the lowest priority is preempted: it gives its pages back, waits in its old place, and its prompt
//      and completion are prefilled again once its launched steps have landed;
//   3. shares the budget of max_num_batched_tokens: decode first, but while prefill has work an eighth of the budget is
//      its own, and where not every sequence can decode the one that waited longest goes first. Neither side starves;
//   4. takes from the queue, by priority and then arrival, what gets a slot and the pages of its whole prompt, with a
//      spare page for each sequence in decode, so that a newcomer does not lead to preemption right away. Whoever is
//      first in the queue is never passed by.
// Inputs of encoders (limits.ragged) need no pages and are never cut.
// Pages get their memory as they are needed: SetMappedPages says how many have it, PagesWanted how many should soon.
// What has none is not there for the rules above.
// Ends by token (stop_token_ids after min_tokens, max_tokens, max_model_len) are decided in Land. With look-ahead the
// sequence may be in the next step already: that result is dropped.
#ifndef CORE_ENGINE_SCHEDULER_H_
#define CORE_ENGINE_SCHEDULER_H_

#include <absl/container/flat_hash_map.h>
#include <absl/status/statusor.h>
#include <absl/time/time.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "core/engine/batch.h"
#include "core/engine/event.h"
#include "core/engine/page_pool.h"
#include "core/engine/runner.h"
#include "core/engine/sequence.h"

namespace automodeld {

class Scheduler {
 public:
  explicit Scheduler(const RunnerLimits& limits);
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  void Add(std::shared_ptr<Request> request);

  // The next step. The reference, and what its spans point to, are valid until the next call of any method. A batch
  // that is not empty counts as launched, and must be landed. Empty: nothing can run before a step in flight has
  // landed, or nothing is left.
  const Batch& Next(absl::Time now);

  // The results of the oldest step that has not landed. An error ends the step's requests with INTERNAL.
  void Land(absl::StatusOr<StepOutput> output, absl::Time now);

  // Pages below this have memory, those in use among them; all of them unless it is called. One sequence of
  // max_model_len must fit.
  void SetMappedPages(int num_pages) { pages_.SetMapped(num_pages); }
  // How many pages, scratch included, should have memory, so that none is short in the next steps: those in use, some
  // for each running sequence and those of the prompts that could start. While anything runs never less than there are;
  // idle, what the time since it was idle last had wanted at most.
  int PagesWanted() const;

  // Ends one request, if it has not ended: `reason` for an end in good order.
  void End(const Request& request, const absl::Status& status, FinishReason reason, absl::Time now);
  void EndAll(const absl::Status& status, absl::Time now);

  // In order of time; whoever reads them clears them.
  std::vector<Event>& events() { return events_; }

  bool idle() const { return running_.empty() && waiting_.empty() && steps_.empty(); }
  int num_running() const { return static_cast<int>(running_.size()); }
  int num_waiting() const { return static_cast<int>(waiting_.size()); }
  int num_in_flight() const { return static_cast<int>(steps_.size()); }
  int64_t num_preemptions() const { return num_preemptions_; }
  const PagePool& pages() const { return pages_; }
  int64_t pages_referenced() const;  // by sequences; equals pages().used()

 private:
  struct StepItem {
    Sequence* sequence;
    bool last;
  };
  using Step = std::vector<StepItem>;  // in the batch's order

  void EndCancelledAndExpired(absl::Time now);
  void GrowPages();
  bool GrowPages(Sequence& sequence);  // false: the sequence itself was preempted
  void Preempt(Sequence& sequence);
  void CountPagesWanted();
  int PrefillBudget() const;
  int SchedulePrefill(int budget, absl::Time now);  // both return the tokens used
  void ScheduleDecode(int budget);
  bool Admit(int budget, absl::Time now);  // false: the first in the queue has to wait
  void TakeSlot(Sequence& sequence, absl::Time now);
  void AddChunk(Sequence& sequence, int num_tokens);
  void AddDecode(Sequence& sequence);
  void RememberStep();

  void LandItem(Sequence& sequence, ItemOutput output, absl::Time now);
  FinishReason EndByToken(const Sequence& sequence) const;
  void Finish(Sequence& sequence, const absl::Status& status, FinishReason reason, absl::Time now, ItemOutput output);
  void RemoveEnded();
  void Recycle(Sequence& sequence);
  Sequence& NewSequence();
  void ReleasePages(Sequence& sequence);
  int PagesFor(int num_tokens) const { return (num_tokens + limits_.page_size - 1) / limits_.page_size; }

  const RunnerLimits limits_;
  PagePool pages_;
  std::vector<int> free_slots_;
  std::vector<Sequence*> running_;                         // in order of service
  std::deque<Sequence*> waiting_;                          // in order of service
  absl::Time earliest_deadline_ = absl::InfiniteFuture();  // no waiting request has an earlier one
  bool some_ended_ = false;                                // and are still listed
  absl::flat_hash_map<const Request*, Sequence*> by_request_;

  Batch batch_;
  std::vector<Sequence*> decodable_;
  std::vector<Sequence*> prefilled_, ragged_;  // of the items in batch_
  std::vector<Step> steps_;                    // in flight, oldest first
  std::vector<Step> spare_steps_;
  std::vector<Event> events_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> spare_sequences_;
  int pages_wanted_ = 0;       // after the last Next
  int most_pages_wanted_ = 0;  // since it was idle last
  int64_t num_arrived_ = 0;
  int64_t num_steps_ = 0;
  int64_t num_preemptions_ = 0;
};

}  // namespace automodeld

#endif  // CORE_ENGINE_SCHEDULER_H_
