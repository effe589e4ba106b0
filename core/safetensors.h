// Checkpoint weights in safetensors files: names, shapes and types from the headers, bytes read on demand.
//
//   ASSIGN_OR_RETURN(Safetensors files, Safetensors::Open(folder));   // model.safetensors, or index and shards
//   const StoredTensor* tensor = files.Find("model.norm.weight");     // null: no such tensor
//   RETURN_IF_ERROR(files.Read(*tensor, 0, bytes));
//
// A file is `u64 little-endian n | n bytes of JSON | data`. Checked is all that the Rust crate checks
// (github.com/huggingface/safetensors, tensor.rs): n is at most 100 MB and within the file; the header is an object of
// {dtype, shape, data_offsets} and begins with '{'; `__metadata__` maps strings to strings; the types are known; shape
// and type give exactly the offsets' size, without overflow; the tensors tile the data without hole or overlap, up to
// the file's last byte. Beyond it: names are unique, and a shape has at most 64 dimensions.
// Threads: Read from any. Torch-free.
#ifndef CORE_SAFETENSORS_H_
#define CORE_SAFETENSORS_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"

namespace automodeld {

// A type of the format: its name, how many bits an element takes, and whether it is a float that can be read.
struct StoredType {
  const char* name;
  uint64_t bits;
  bool floating;
};

struct StoredTensor {
  std::string name;
  const StoredType* type = nullptr;
  std::vector<int64_t> shape;
  size_t shard = 0;    // which file
  uint64_t begin = 0;  // in the file, bytes
  uint64_t bytes = 0;
};

// Tensors of one file in the order of their data. FAILED_PRECONDITION: a check failed; the message names the tensor.
absl::StatusOr<std::vector<StoredTensor>> ReadSafetensorsHeader(const File& file);

class Safetensors {
 public:
  // Opens model.safetensors, or the shards that model.safetensors.index.json names.
  //   NOT_FOUND            no weights in the folder
  //   INVALID_ARGUMENT     the index is not JSON, or not of its form
  //   FAILED_PRECONDITION  a check failed; shards are missing; index and shards disagree; only pickle files are there
  static absl::StatusOr<Safetensors> Open(const std::string& folder);

  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  const StoredTensor* Find(const std::string& name) const;
  // The first one in the first file whose type is a float; null if there is none.
  const StoredTensor* FirstFloating() const;

  // Fills `out` with the tensor's bytes from `offset` on; large pieces by several threads.
  absl::Status Read(const StoredTensor& tensor, uint64_t offset, std::span<std::byte> out) const;
  // Whether two tensors have the same type, shape and bytes. `check` is asked before every 16 MiB; its error ends it.
  absl::StatusOr<bool> Equal(const StoredTensor& a, const StoredTensor& b,
                             const std::function<absl::Status()>& check) const;

 private:
  absl::Status AddShard(const std::string& folder, const std::string& name);
  absl::Status AddIndexed(const std::string& folder);

  std::vector<File> shards_;
  std::map<std::string, StoredTensor> tensors_;
};

}  // namespace automodeld

#endif  // CORE_SAFETENSORS_H_
