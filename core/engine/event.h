// What became of a request in a step: from the scheduler, on the engine thread, to delivery, on its own.
#ifndef CORE_ENGINE_EVENT_H_
#define CORE_ENGINE_EVENT_H_

#include <absl/status/status.h>
#include <absl/time/time.h>

#include <memory>

#include "core/engine/batch.h"
#include "core/engine/request.h"

namespace automodeld {

// A token, a vector, the end, or a token or vector and the end together. The last event of every request has `ended`.
struct Event {
  std::shared_ptr<Request> request = nullptr;
  absl::Time time = {};                            // when it happened
  absl::Time first_step = absl::InfiniteFuture();  // when the request first ran; infinite: it never did
  ItemOutput output = {};                          // token -1 and no embedding: nothing but the end
  bool ended = false;
  absl::Status status = {};                   // of the end
  FinishReason reason = FinishReason::kNone;  // of a good end of kGenerate
};

}  // namespace automodeld

#endif  // CORE_ENGINE_EVENT_H_
