// A model of a few tensors, registered for the factory's tests: TinyForTest (causal), TinyEncoderForTest,
// and TinyForEveryClassTest, which is of all three classes.
//
//   CheckpointFolder folder;
//   WriteTiny(folder);                                   // config.json and model.safetensors, every tensor its numbers
//   AutoModel::Load({.path = folder.path()}, {});
//   LastTiny()["model.norm.weight"];                     // what the last model that was made had read
#ifndef TESTS_MODELS_TINY_MODEL_H_
#define TESTS_MODELS_TINY_MODEL_H_

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <vector>

#include "core/auto_model.h"
#include "tests/loading/checkpoint_folder.h"

namespace automodeld {

inline constexpr char kTinyConfig[] =
    R"({"architectures": ["TinyForTest"], "model_type": "tiny", "hidden_size": 16, "num_hidden_layers": 2,
        "vocab_size": 24, "max_position_embeddings": 64, "eos_token_id": 3})";

// The same with another width and architecture.
std::string TinyConfig(int64_t hidden, const std::string& architecture);

// Tensors of the model made last, empty while none was made on a real device.
std::map<std::string, at::Tensor>& LastTiny();

// The checkpoint's tensors as float32; element i of each is i / 8 + (a number of its own), exact in every type.
std::vector<TestTensor> TinyTensors(int64_t hidden = 16);

// The values as another type of the file format: F64, F32, F16 or BF16.
TestTensor Converted(const TestTensor& tensor, const std::string& dtype);

void WriteTiny(const CheckpointFolder& folder);
void WriteTiny(const CheckpointFolder& folder, int64_t hidden, const std::string& architecture);

// Options that load on the CPU without anything that falls back.
LoadOptions PlainOptions(const std::string& path = "");

}  // namespace automodeld

#endif  // TESTS_MODELS_TINY_MODEL_H_
