// A step of decode rows as the qkv linear layer gives them, with two caches that hold the same: in one the operation
// qkv_rope_write_kv and then attention run, in the other attention over raw rows.
#ifndef TESTS_KERNELS_RAW_ATTENTION_FIXTURE_H_
#define TESTS_KERNELS_RAW_ATTENTION_FIXTURE_H_

#include <ATen/ATen.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/ops.h"
#include "tests/kernels/attention_fixture.h"

namespace automodeld {

struct RawShape {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kBFloat16;
  std::optional<at::ScalarType> kv_dtype = {};  // none: dtype
  int64_t heads = 8, kv_heads = 2, head_dim = 128, page_size = 16, window = 0;
  std::optional<int64_t> rotary_dim = {};  // none: head_dim; 0: no rotation
  bool q_norm = false, k_norm = false, sinks = false, quantize = false;
  static constexpr bool causal = true;
  double soft_cap = 0.0, k_scale = 0.05, v_scale = 0.02;
};

std::string Describe(const RawShape& shape);

// Pages lie in a shuffled order. Slots that an earlier step has not written, the newest ones among them, hold NaN.
class RawStep {
 public:
  // contexts: of each sequence, its newest token included; most that SetContexts will be given
  RawStep(const RawShape& shape, const std::vector<int64_t>& contexts);

  // From now on the sequences are so long, and have other rows; caches are as they were made, newest slots NaN.
  void SetContexts(const std::vector<int64_t>& contexts);
  // All are padding: position 0 of the scratch page.
  void Pad();

  void Plan(AttentionBackend& backend) const;
  LinearInput RunTwo(AttentionBackend& backend);  // the operation, then attention
  std::optional<LinearInput> RunRaw(AttentionBackend& backend);
  std::optional<LinearInput> RunRaw(AttentionBackend& backend, const std::string& version);

  // Whether both caches, all layers of them, hold the same bits.
  bool CachesAreEqual() const;
  AttentionNeeds needs() const { return NeedsOf(shape_); }

  AttentionStep step;
  at::Tensor qkv, q_norm, k_norm, cos_sin, positions, slots;  // what the operation is given

 private:
  at::ScalarType kv_dtype() const { return shape_.kv_dtype.value_or(shape_.dtype); }
  AttentionLayer Layer() const { return LayerOf(shape_, shape_.quantize); }
  void FillCaches();

  RawShape shape_;
  Ops ops_;
  std::vector<std::vector<int32_t>> pages_;
  std::vector<int64_t> contexts_;
  std::unique_ptr<KvCache> of_two_, of_raw_;
};

}  // namespace automodeld

#endif  // TESTS_KERNELS_RAW_ATTENTION_FIXTURE_H_
