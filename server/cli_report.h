// Load reports and lists of models as people read them.
#ifndef SERVER_CLI_REPORT_H_
#define SERVER_CLI_REPORT_H_

#include <string>

#include "automodeld/v1/models.pb.h"

namespace automodeld {

// What was loaded, patches, every fallback and note, FP8, unread tensors, bytes and seconds.
std::string ReportText(const v1::LoadReport& report);

// One row per model.
std::string ModelsText(const v1::ListModelsResponse& models);

// State, load and error of one model.
std::string StatusText(const v1::ModelStatus& status);

}  // namespace automodeld

#endif  // SERVER_CLI_REPORT_H_
