// A checkpoint folder in a temporary place, for as long as the value lives.
//
//   auto tokenizer = CheckpointFolder().Write("tokenizer.json", ByteLevelJson()).Load();
#ifndef TESTS_TEXT_CHECKPOINT_FOLDER_H_
#define TESTS_TEXT_CHECKPOINT_FOLDER_H_

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "core/text/text.h"

namespace automodeld {

class CheckpointFolder {
 public:
  CheckpointFolder() {
    std::string path = testing::TempDir() + "/automodeld_text_XXXXXX";
    if (mkdtemp(path.data()) == nullptr) ADD_FAILURE() << "no temporary folder " << path;
    path_ = path;
  }
  CheckpointFolder(const CheckpointFolder&) = delete;
  CheckpointFolder& operator=(const CheckpointFolder&) = delete;
  ~CheckpointFolder() { std::filesystem::remove_all(path_); }

  CheckpointFolder& Write(const std::string& name, const std::string& content) {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << content;
    return *this;
  }

  // A named pipe that nobody writes to: to open it the usual way blocks.
  CheckpointFolder& MakePipe(const std::string& name) {
    EXPECT_EQ(mkfifo((path_ / name).c_str(), 0600), 0);
    return *this;
  }

  CheckpointFolder& MakeFolder(const std::string& name) {
    std::filesystem::create_directories(path_ / name);
    return *this;
  }

  // A file of `size` bytes that takes no room on the disk.
  CheckpointFolder& MakeSparse(const std::string& name, uint64_t size) {
    Write(name, "");
    std::filesystem::resize_file(path_ / name, size);
    return *this;
  }

  absl::StatusOr<std::shared_ptr<const Tokenizer>> TryLoad() const { return Tokenizer::Load(path_.string()); }

  // Never null: a folder that does not load fails the test and then the process.
  std::shared_ptr<const Tokenizer> Load() const {
    auto tokenizer = TryLoad();
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return *std::move(tokenizer);
  }

 private:
  std::filesystem::path path_;
};

}  // namespace automodeld

#endif  // TESTS_TEXT_CHECKPOINT_FOLDER_H_
