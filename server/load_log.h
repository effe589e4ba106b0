// What the log says of a model that was loaded, or only checked.
#ifndef SERVER_LOAD_LOG_H_
#define SERVER_LOAD_LOG_H_

#include "core/auto_model.h"

namespace automodeld {

// INFO: what was loaded, each patch, and how much became FP8. WARNING: each fallback and each note. DEBUG: each linear
// that FP8 left alone.
void LogLoaded(const LoadReport& report, bool check_only);

}  // namespace automodeld

#endif  // SERVER_LOAD_LOG_H_
