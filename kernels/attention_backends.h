// The makers behind MakeAttention, one per file. Each gives UNIMPLEMENTED with the reason where it cannot do `needs`.
#ifndef KERNELS_ATTENTION_BACKENDS_H_
#define KERNELS_ATTENTION_BACKENDS_H_

#include <absl/status/statusor.h>

#include <memory>
#include <span>
#include <string>

#include "kernels/attention.h"

namespace automodeld {

using AttentionOr = absl::StatusOr<std::unique_ptr<AttentionBackend>>;

AttentionOr MakeEagerAttention(const AttentionNeeds& needs);
AttentionOr MakeSdpaAttention(const AttentionNeeds& needs, std::span<const SdpaBackend> order);
AttentionOr MakeCpuFlashAttention(const AttentionNeeds& needs);
AttentionOr MakeCudaFlashAttention(const AttentionNeeds& needs);  // in builds with CUDA

// UNIMPLEMENTED where `needs` has a soft cap or sinks, which `name` does not know.
absl::Status RefuseCapAndSinks(const std::string& name, const AttentionNeeds& needs);

// What the scores of a layer and its results are multiplied with: over elements as a cache holds them the cache's
// scales are in it; `kv` null: for ragged rows.
struct AttentionFactors {
  double scores = 1.0;
  double results = 1.0;
};
AttentionFactors FactorsOf(const AttentionLayer& layer, const KvCache* kv);

// Which keys a row sees, as additive values: 0 where the row may look, minus infinity elsewhere.
// contexts: [batch] int64, the tokens of each sequence. The `rows` rows of a sequence are its last ones. Result:
// [batch, 1, rows, keys] of `options`; its rows lie a multiple of 16 elements apart, as CUDA kernels want.
at::Tensor AttentionMask(const at::Tensor& contexts, int64_t rows, int64_t keys, const AttentionLayer& layer,
                         at::TensorOptions options);

}  // namespace automodeld

#endif  // KERNELS_ATTENTION_BACKENDS_H_
