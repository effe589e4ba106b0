// Rotary position embeddings as a table of cosines and sines. Follows transformers' modeling_rope_utils: rope types
// default, linear, dynamic, llama3 and yarn, written as `rope_parameters` (2025) or `rope_scaling` + `rope_theta`
// (2023). No sequence is longer than max_position_embeddings, up to where dynamic equals default.
#ifndef CORE_LAYERS_ROPE_H_
#define CORE_LAYERS_ROPE_H_

#include <ATen/ATen.h>

#include <string>

#include "core/config.h"

namespace automodeld {

struct RopeConfig {
  std::string type = "default";
  double theta = 10000.0;
  double factor = 1.0;
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  double attention_factor = 1.0;  // yarn: multiplies cosines and sines
  bool truncate = true;           // yarn
  int64_t original_max_positions = 0;
  int64_t max_positions = 0;
  int64_t rotary_dim = 0;  // head_dim: these families turn all of it
};

// Reads the rope keys; unsupported types are recorded in `read`.
RopeConfig ReadRope(ConfigReader& read, int64_t head_dim, int64_t max_positions);

// [max_positions, 2, rotary_dim / 2] float32: cosines, then sines, both times attention_factor.
at::Tensor RopeTable(const RopeConfig& rope, at::Device device);

}  // namespace automodeld

#endif  // CORE_LAYERS_ROPE_H_
