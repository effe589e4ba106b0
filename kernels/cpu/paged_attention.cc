// flash_attention_2 on the CPU: one pass straight over the pages, in parallel over (sequence, key head, block of rows).
// Reads every key and value once per block of up to 64 rows and writes nothing but the result. A row's bits do not
// depend on the other rows of the step, whether of other sequences or its own.
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels/attention_backends.h"
#include "kernels/cpu/attention_block.h"
#include "kernels/cpu/scratch.h"
#include "kernels/dispatch.h"
#include "kernels/fp8.h"

namespace automodeld {
namespace {

constexpr int64_t kRowsPerBlock = 64;
constexpr int64_t kWorthAThread = 1 << 16;  // multiplications: waking a thread costs about as much

struct FlashSequence {
  int64_t first_row = 0, num_rows = 0, context = 0;
  size_t first_page = 0;  // in pages_
  bool paged = false;
};

struct FlashBlock {
  size_t sequence = 0;
  int64_t row = 0, rows = 0;  // of the sequence's rows in this step
};

// Keys and values, and the factors that go with them.
struct FlashSource {
  TokenRows keys, values;
  AttentionFactors factors;
};

// The tensors of one Run.
struct FlashTensors {
  const at::Tensor &q, &out;
  FlashSource ragged;  // first rows in k and v
  FlashSource paged;   // the cache's first slot
};

TokenRows RowsOf(const at::Tensor& x) {  // [tokens, kv_heads, head_dim]
  return {.base = static_cast<const char*>(x.const_data_ptr()),
          .token_stride = x.stride(0) * x.element_size(),
          .type = x.scalar_type()};
}

TokenRows SlotsOf(const at::Tensor& cache) {  // [pages, page_size, kv_heads, head_dim]
  return {.base = static_cast<const char*>(cache.const_data_ptr()),
          .page_size = cache.size(1),
          .page_stride = cache.stride(0) * cache.element_size(),
          .token_stride = cache.stride(1) * cache.element_size(),
          .type = cache.scalar_type()};
}

FlashSource CacheOf(const AttentionLayer& layer, const KvCache* kv) {
  if (kv == nullptr) return {};
  const at::ScalarType type = kv->dtype();
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16 || type == at::kHalf || type == at::kFloat8_e4m3fn,
              "attention: KV cache is ", type, ", expected Float, BFloat16, Half or Float8_e4m3fn");
  return {SlotsOf(kv->keys(layer.index)), SlotsOf(kv->values(layer.index)), FactorsOf(layer, kv)};
}

at::Tensor DenseHeads(const at::Tensor& x) { return x.stride(2) == 1 && x.stride(1) == x.size(2) ? x : x.contiguous(); }

class CpuFlashAttention final : public AttentionBackend {
 public:
  explicit CpuFlashAttention(int64_t group) : tokens_per_block_(std::max<int64_t>(1, kRowsPerBlock / group)) {}

  const std::string& name() const override { return name_; }

  void Plan(const AttentionStep& step) override {
    sequences_.clear();
    blocks_.clear();
    pages_.clear();
    pairs_ = 0;
    for (const SequenceRows& rows : step.paged) {
      TORCH_CHECK(static_cast<int64_t>(rows.pages.size()) * step.page_size >= rows.context,
                  "attention: ", rows.pages.size(), " pages of ", step.page_size, " tokens cannot hold ", rows.context,
                  " tokens");
      Add({rows.first_row, rows.num_rows, rows.context, pages_.size(), true});
      pages_.insert(pages_.end(), rows.pages.begin(), rows.pages.end());
    }
    for (const SequenceRows& rows : step.ragged) Add({rows.first_row, rows.num_rows, rows.num_rows, 0, false});
  }

  LinearInput Run(const AttentionLayer& layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const KvCache* kv) override {
    at::Tensor out = at::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
    const at::Tensor queries = DenseHeads(q), own_keys = DenseHeads(k), own_values = DenseHeads(v);
    const FlashTensors tensors{.q = queries,
                               .out = out,
                               .ragged = {RowsOf(own_keys), RowsOf(own_values), FactorsOf(layer, nullptr)},
                               .paged = CacheOf(layer, kv)};
    DispatchFloats("attention", q, [&](auto zero) { RunAs<decltype(zero)>(layer, tensors); });
    return QuantizedIf(layer.quantize, out);
  }

 private:
  void Add(const FlashSequence& sequence) {
    for (int64_t row = 0; row < sequence.num_rows; row += tokens_per_block_) {
      blocks_.push_back({sequences_.size(), row, std::min(tokens_per_block_, sequence.num_rows - row)});
    }
    sequences_.push_back(sequence);
    pairs_ += sequence.num_rows * sequence.context;
  }

  template <typename T>
  void RunAs(const AttentionLayer& layer, const FlashTensors& tensors) const {
    const int64_t tasks = static_cast<int64_t>(blocks_.size()) * layer.num_kv_heads;
    const int64_t work = pairs_ * layer.num_heads * layer.head_dim;
    const int64_t threads = std::min({int64_t{at::get_num_threads()}, tasks, 1 + work / kWorthAThread});
    std::atomic<int64_t> next = 0;
    at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
      for (int64_t task = next++; task < tasks; task = next++) RunTask<T>(layer, tensors, task);
    });
  }

  // Tasks of one block follow one another: they share pages.
  template <typename T>
  void RunTask(const AttentionLayer& layer, const FlashTensors& t, int64_t task) const {
    const FlashBlock& block = blocks_[static_cast<size_t>(task / layer.num_kv_heads)];
    const FlashSequence& sequence = sequences_[block.sequence];
    const int64_t head = task % layer.num_kv_heads, group = layer.num_heads / layer.num_kv_heads;
    const int64_t row = sequence.first_row + block.row, heads_before = head * group * layer.head_dim;
    const FlashSource& source = sequence.paged ? t.paged : t.ragged;
    AttentionBlock<T> b{.q = t.q.const_data_ptr<T>() + row * t.q.stride(0) + heads_before,
                        .out = t.out.mutable_data_ptr<T>() + row * t.out.stride(0) + heads_before,
                        .q_stride = t.q.stride(0),
                        .out_stride = t.out.stride(0),
                        .tokens = block.rows,
                        .group = group,
                        .head_dim = layer.head_dim,
                        .first_position = sequence.context - sequence.num_rows + block.row,
                        .context = sequence.context,
                        .window = layer.window,
                        .causal = layer.causal,
                        .score_factor = static_cast<float>(source.factors.scores),
                        .result_factor = static_cast<float>(source.factors.results),
                        .keys = source.keys,
                        .values = source.values};
    for (TokenRows* rows : {&b.keys, &b.values}) {
      rows->base += head * layer.head_dim * static_cast<int64_t>(c10::elementSize(rows->type));
      if (sequence.paged)
        rows->pages = pages_.data() + sequence.first_page;
      else
        rows->base += sequence.first_row * rows->token_stride;
    }
    const int64_t dim = (layer.head_dim + kMaxVectorFloats - 1) / kMaxVectorFloats * kMaxVectorFloats;
    float* scratch = ThreadScratch(AttentionScratch::Size(block.rows * group, dim));
    RunSimd<AttendBlock<T>>(static_cast<const AttentionBlock<T>*>(&b), scratch);
  }

  const std::string name_ = "flash_attention_2:cpu";
  int64_t tokens_per_block_;
  std::vector<FlashSequence> sequences_;
  std::vector<FlashBlock> blocks_;
  std::vector<int32_t> pages_;
  int64_t pairs_ = 0;  // of rows and keys
};

}  // namespace

AttentionOr MakeCpuFlashAttention(const AttentionNeeds& needs) {
  if (needs.dtype != at::kFloat && needs.dtype != at::kBFloat16 && needs.dtype != at::kHalf) {
    return absl::UnimplementedError(std::string("flash_attention_2 has no CPU version for ") +
                                    c10::toString(needs.dtype));
  }
  if (absl::Status status = RefuseCapAndSinks("flash_attention_2:cpu", needs); !status.ok()) return status;
  return std::make_unique<CpuFlashAttention>(needs.num_heads / needs.num_kv_heads);
}

}  // namespace automodeld
