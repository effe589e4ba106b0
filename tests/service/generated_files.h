// Files that are written by the program and kept in the repository.
#ifndef TESTS_SERVICE_GENERATED_FILES_H_
#define TESTS_SERVICE_GENERATED_FILES_H_

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

namespace automodeld {

// The file (a path from the root of the sources) holds `text`; with UPDATE_GENERATED=1 it is written first.
inline void ExpectGenerated(const std::string& file, const std::string& text) {
  const std::string path = std::string(AUTOMODELD_SOURCE_DIR "/") + file;
  if (std::getenv("UPDATE_GENERATED") != nullptr) std::ofstream(path, std::ios::binary) << text;
  std::ifstream stream(path, std::ios::binary);
  const std::string kept{std::istreambuf_iterator<char>(stream), {}};
  EXPECT_TRUE(kept == text) << file << " is out of date: run this test with UPDATE_GENERATED=1";
}

}  // namespace automodeld

#endif  // TESTS_SERVICE_GENERATED_FILES_H_
