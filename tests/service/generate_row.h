// A row of the tables that sweep the fields of GenerateRequest.
#ifndef TESTS_SERVICE_GENERATE_ROW_H_
#define TESTS_SERVICE_GENERATE_ROW_H_

#include <gtest/gtest.h>

#include <cctype>
#include <functional>
#include <ostream>
#include <string>

#include "tests/service/test_daemon.h"

namespace automodeld {

struct GenerateRow {
  std::string field;
  std::function<void(v1::GenerateRequest&)> change;
  grpc::StatusCode code;
  std::string message;
};

// A name for gtest: the field's letters and the row's number make it unique.
inline std::string RowName(const testing::TestParamInfo<GenerateRow>& info) {
  std::string name;
  for (const char c : info.param.field) name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name + "_" + std::to_string(info.index);
}

inline void PrintTo(const GenerateRow& row, std::ostream* out) { *out << row.field << " -> " << row.message; }

}  // namespace automodeld

#endif  // TESTS_SERVICE_GENERATE_ROW_H_
