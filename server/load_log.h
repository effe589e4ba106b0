// What the log says of a model that was loaded, or only checked.
#ifndef SERVER_LOAD_LOG_H_
#define SERVER_LOAD_LOG_H_

#include "core/auto_model.h"

namespace automodeld {

// One INFO line, and a WARNING for each fallback.
void LogLoaded(const LoadReport& report, bool check_only);

}  // namespace automodeld

#endif  // SERVER_LOAD_LOG_H_
