// Attention backends: Plan on the host before a step, Run on the device once per layer.
//
//   ASSIGN_OR_RETURN(auto attention, MakeAttention("sdpa", shape, device, methods));
//   attention->Plan(step);                              // once a step
//   LinearInput out = attention->Run(layer, q, k, v, kv);  // every layer, or RunRaw where that can
//
// Versions: eager (plain ATen in float32: the definition), sdpa (libtorch's kernels, called directly in the order of
// sdpa_method, never by process-wide switches), flash_attention_2 (online softmax over pages; cpu/ and cuda/).
#ifndef KERNELS_ATTENTION_H_
#define KERNELS_ATTENTION_H_

#include <ATen/ATen.h>
#include <absl/status/statusor.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/kv_cache.h"
#include "kernels/linear_input.h"

namespace automodeld {

// One sequence's rows of a step.
struct SequenceRows {
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t context = 0;             // tokens of the sequence after this step: rows attend to [0, context)
  std::span<const int32_t> pages;  // its pages in order; empty for ragged. Valid during Plan
};

// The most prompts, or inputs of an encoder, of a step that is recorded.
inline constexpr int64_t kMostRecordedPrompts = 16;

// A step's sequences: `paged` (decode first, then prefill) read K and V from the cache, in which this step's rows are
// already written, so that a prompt sees what its decode rows will see; `ragged` attend to their own rows only.
struct AttentionStep {
  std::vector<SequenceRows> paged;
  std::vector<SequenceRows> ragged;
  int64_t page_size = 16;
  int64_t num_decode = 0;  // the first so many of `paged` have one row
  // Of a step of prompts that is recorded, or for which a recorded one is launched again: its rows, padding included;
  // no other sequences, and at most kMostRecordedPrompts. Rows of padding belong to no sequence and get no result.
  int64_t recorded_rows = 0;
  bool recorded_ragged = false;  // the prompts are in `ragged`, not in `paged`
};

// What is constant for a layer.
struct AttentionLayer {
  int64_t index = 0;  // in the KV cache
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  double scale = 1.0;
  int64_t window = 0;  // a row at position p attends to (p - window, p]; 0: no window
  bool causal = true;
  double k_scale = 1.0;  // of the layer's keys and values in a float8_e4m3fn cache (kernels/kv_cache.h)
  double v_scale = 1.0;
  double soft_cap = 0.0;  // scores become soft_cap * tanh(score / soft_cap), before the mask; 0: as they are
  // [num_heads] float32: one score more in each row's softmax, without a value; may be undefined
  at::Tensor sinks = {};
  bool quantize = false;  // the result is quantised row by row, as QuantizeRows (kernels/fp8.h) does
};

// What a backend must be able to do; checked when the model is planned.
struct AttentionNeeds {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  bool causal = true;
  bool window = false;
  bool soft_cap = false;
  bool sinks = false;
};

// What qkv_rope_write_kv (kernels/ops.h) is given besides the layer and its cache.
struct RawQkv {
  const std::string& version;  // of the operation, that is in force: "cuda", "eager", "mycorp::qkv_rope_write_kv"
  const at::Tensor& qkv;       // [tokens, (heads + 2 * kv_heads) * head_dim]
  const std::optional<at::Tensor>&q_norm, &k_norm;
  double eps;
  const at::Tensor& cos_sin;  // may be undefined
  const at::Tensor &positions, &slots;
};

// The largest step that Plan will be given, as far as memory is laid out by it.
struct AttentionCapacity {
  int64_t max_sequences = 0;  // of a step
  int64_t max_pages = 0;      // of a sequence
  int64_t max_tokens = 0;     // of a step
};

class AttentionBackend {
 public:
  virtual ~AttentionBackend() = default;
  // Such as "eager", "sdpa:MATH" or "flash_attention_2:cpu"; goes to the load report.
  virtual const std::string& name() const = 0;
  virtual void Plan(const AttentionStep& step) = 0;
  // Called once, before the first Plan, by whoever wants to capture.
  virtual void Reserve(const AttentionCapacity&) {}
  // Whether Run, called between Plan and the next Plan for a step of one-row sequences alone or of recorded_rows, may
  // be captured into a CUDA graph and the graph be launched again after another Plan for as many: what Run launches
  // depends on nothing else, and reads what Plan wrote from addresses that stay.
  virtual bool can_be_captured() const { return false; }
  // q: [tokens, heads, head_dim]; k, v: [tokens, kv_heads, head_dim], read for ragged rows only; kv, of any of its
  // types whatever q's, may be null if nothing is paged. Result: [tokens, heads * head_dim], of q's dtype or quantised.
  virtual LinearInput Run(const AttentionLayer& layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const KvCache* kv) = 0;
  // Whether RunRaw takes the place of that version of qkv_rope_write_kv in steps of decode rows alone, as far as that
  // depends on the model and its cache.
  virtual bool TakesRaw(const std::string& /*version*/, at::ScalarType /*kv_dtype*/) const { return false; }
  // The operation and Run in one: writes this step's keys and values into `kv`, the same bits, and gives what Run
  // would. May be captured as Run may. std::nullopt, and then nothing is done, where it cannot: the step has other rows
  // than decode rows or more of them than it gains by, the version is not the backend's own, or a shape, type or layout
  // is one that it has no kernel for.
  virtual std::optional<LinearInput> RunRaw(const AttentionLayer&, const RawQkv&, const KvCache&) {
    return std::nullopt;
  }
};

// SDPA's implementations, in the order to try.
enum class SdpaBackend { kCudnn, kFlash, kEfficient, kMath };

// UNIMPLEMENTED, with the reason, where `name` cannot do `needs` in this build or on this device: the caller takes the
// next rung. `sdpa_order` governs "sdpa"; empty leaves libtorch its own choice.
absl::StatusOr<std::unique_ptr<AttentionBackend>> MakeAttention(const std::string& name, const AttentionNeeds& needs,
                                                                std::span<const SdpaBackend> sdpa_order);

}  // namespace automodeld

#endif  // KERNELS_ATTENTION_H_
