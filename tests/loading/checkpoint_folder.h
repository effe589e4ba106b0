// A checkpoint folder made on the spot, gone with the object.
//
//   CheckpointFolder folder;
//   folder.Write("config.json", R"({"hidden_size": 8})");
//   folder.WriteTensors("model.safetensors", {{"a", "F32", {2}, FloatBytes({1, 2})}});
#ifndef TESTS_LOADING_CHECKPOINT_FOLDER_H_
#define TESTS_LOADING_CHECKPOINT_FOLDER_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace automodeld {

struct TestTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

inline std::string FloatBytes(const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// Length, header and data, whatever the header says.
inline std::string SafetensorsFile(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file + header + data;
}

inline std::string SafetensorsOf(const std::vector<TestTensor>& tensors) {
  nlohmann::ordered_json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const TestTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  return SafetensorsFile(header.dump(), data);
}

class CheckpointFolder {
 public:
  CheckpointFolder() : path_(testing::TempDir() + "/checkpoint-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "no temporary folder";
  }
  CheckpointFolder(const CheckpointFolder&) = delete;
  CheckpointFolder& operator=(const CheckpointFolder&) = delete;
  ~CheckpointFolder() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }

  void Write(const std::string& name, const std::string& text) const {
    const std::filesystem::path file = std::filesystem::path(path_) / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << text;
  }
  void WriteTensors(const std::string& name, const std::vector<TestTensor>& tensors) const {
    Write(name, SafetensorsOf(tensors));
  }
  void Remove(const std::string& name) const { std::filesystem::remove_all(std::filesystem::path(path_) / name); }

 private:
  std::string path_;
};

}  // namespace automodeld

#endif  // TESTS_LOADING_CHECKPOINT_FOLDER_H_
