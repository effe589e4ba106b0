#include "core/engine/model_runner.h"

#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <optional>
#include <utility>
#include <vector>

#include "core/engine/model_runner_inputs.h"
#include "core/engine/model_runner_sampler.h"
#include "core/layers/pooling.h"
#include "core/listing.h"
#include "core/status.h"

namespace automodeld {

namespace {

absl::Status FromException(const std::exception& error) { return absl::InternalError(FirstLine(error.what())); }

// A result on its way to the host: at once on the CPU, through pinned memory behind an event on a GPU.
at::Tensor StartCopy(const at::Tensor& t) {
  if (!t.defined() || t.device().is_cpu()) return t;
  at::Tensor host = at::empty(t.sizes(), at::TensorOptions(t.dtype()).pinned_memory(true));
  host.copy_(t, /*non_blocking=*/true);
  return host;
}

struct PooledRow {
  at::Tensor value;  // [dimensions] float32
  int64_t output = 0;
};

class ModelStep final : public LaunchedStep {
 public:
  ModelStep(size_t num_items, at::Device device) : num_items_(num_items), device_(device) {}

  // `rows` are those of `sampled`; logprobs is what each asked for.
  void AddTokens(const SampledTokens& sampled, const std::vector<SampledRow>& rows) {
    sampled_ = {.tokens = StartCopy(sampled.tokens),
                .logprobs = StartCopy(sampled.logprobs),
                .top_logprobs = StartCopy(sampled.top_logprobs),
                .top_tokens = StartCopy(sampled.top_tokens)};
    for (const SampledRow& row : rows) {
      rows_.push_back({.output = row.output, .logprobs = row.item->request->sampling.logprobs});
    }
  }

  void AddVector(const at::Tensor& value, int64_t output) {
    pooled_.push_back({.value = StartCopy(value), .output = output});
  }

  // After the last Add: results are on the host when the device has come this far.
  void Seal() {
    if (device_.is_cpu()) return;
    done_.emplace(device_.type());
    done_->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  }

  absl::StatusOr<StepOutput> Wait() override {
    try {
      if (done_) done_->synchronize();
      StepOutput output;
      output.items.resize(num_items_);
      for (size_t i = 0; i < rows_.size(); ++i) ReadToken(static_cast<int64_t>(i), output);
      for (const PooledRow& row : pooled_) {
        const auto* data = row.value.contiguous().data_ptr<float>();
        output.items[static_cast<size_t>(row.output)].embedding.assign(data, data + row.value.numel());
      }
      return output;
    } catch (const std::exception& error) {
      return FromException(error);
    }
  }

 private:
  struct Row {
    int64_t output = 0;
    int logprobs = -1;
  };

  void ReadToken(int64_t i, StepOutput& output) const {
    const Row& row = rows_[static_cast<size_t>(i)];
    ItemOutput& item = output.items[static_cast<size_t>(row.output)];
    item.token = static_cast<TokenId>(sampled_.tokens.data_ptr<int64_t>()[i]);
    if (row.logprobs < 0) return;
    item.logprob = {.token_id = item.token, .logprob = sampled_.logprobs.data_ptr<float>()[i], .top = {}};
    const int64_t width = sampled_.top_tokens.size(1);
    for (int64_t k = 0; k < std::min<int64_t>(row.logprobs, width); ++k) {
      item.logprob.top.emplace_back(static_cast<TokenId>(sampled_.top_tokens.data_ptr<int64_t>()[i * width + k]),
                                    sampled_.top_logprobs.data_ptr<float>()[i * width + k]);
    }
  }

  size_t num_items_;
  at::Device device_;
  SampledTokens sampled_;
  std::vector<Row> rows_;
  std::vector<PooledRow> pooled_;
  std::optional<c10::Event> done_;
};

class ModelRunner final : public Runner {
 public:
  explicit ModelRunner(ModelRunnerParts parts)
      : parts_(std::move(parts)),
        packer_(parts_.limits.page_size, parts_.options.device()),
        sampler_(parts_.ops, parts_.limits.max_num_seqs, parts_.shape.vocab_size, parts_.options.device()),
        pools_(static_cast<size_t>(parts_.limits.max_num_seqs)) {
    parts_.limits.look_ahead = parts_.options.device().is_cpu() ? 0 : 1;
    if (parts_.limits.num_pages == 0) return;
    kv_ = std::make_unique<KvCache>(parts_.limits.num_pages, parts_.shape.num_layers, parts_.limits.page_size,
                                    parts_.shape.num_kv_heads, parts_.shape.head_dim, parts_.kv_options);
  }

  const RunnerLimits& limits() const override { return parts_.limits; }

  absl::StatusOr<std::unique_ptr<LaunchedStep>> Launch(const Batch& batch) override {
    try {
      const c10::InferenceMode inference;
      return LaunchStep(batch);
    } catch (const std::exception& error) {
      return FromException(error);
    }
  }

 private:
  std::unique_ptr<LaunchedStep> LaunchStep(const Batch& batch) {
    ForEachItem(batch, [this](const BatchItem& item, int64_t) { ResetIfFirst(item); });
    Inputs in = packer_.Pack(batch, sampler_.last_tokens());
    in.kv = kv_.get();
    in.attention = parts_.attention.get();
    parts_.attention->Plan(packer_.Sequences(batch));
    const at::Tensor hidden = parts_.model->Forward(in);
    auto step = std::make_unique<ModelStep>(batch.size(), parts_.options.device());
    SampleRows(batch, hidden, *step);
    PoolRows(batch, hidden, *step);
    step->Seal();
    return step;
  }

  void ResetIfFirst(const BatchItem& item) {
    if (!item.first) return;
    sampler_.ResetSlot(item);
    pools_[static_cast<size_t>(item.slot)] = PoolState{};
  }

  void SampleRows(const Batch& batch, const at::Tensor& hidden, ModelStep& step) {
    std::vector<SampledRow> rows;
    std::vector<int64_t> indices;
    int64_t output = 0;
    ForEachItem(batch, [&](const BatchItem& item, int64_t row) {
      if (item.last && item.request->kind == Request::Kind::kGenerate) {
        rows.push_back({.item = &item, .output = output});
        indices.push_back(row + item.num_tokens - 1);
      }
      ++output;
    });
    if (rows.empty()) return;
    const bool all = static_cast<int64_t>(indices.size()) == hidden.size(0);
    const at::Tensor picked = all ? hidden : hidden.index_select(0, at::tensor(indices, at::kLong).to(hidden.device()));
    step.AddTokens(sampler_.Sample(parts_.model->Logits(picked), rows), rows);
  }

  void PoolRows(const Batch& batch, const at::Tensor& hidden, ModelStep& step) {
    int64_t output = 0;
    ForEachItem(batch, [&](const BatchItem& item, int64_t row) {
      if (item.request->kind == Request::Kind::kEmbed) {
        PoolState& pool = pools_[static_cast<size_t>(item.slot)];
        Pool(item.request->embed.pooling, hidden.narrow(0, row, item.num_tokens), item.position, pool);
        if (item.last) {
          step.AddVector(FinishPool(item.request->embed, pool), output);
          pool = PoolState{};
        }
      }
      ++output;
    });
  }

  ModelRunnerParts parts_;
  std::unique_ptr<KvCache> kv_;
  InputPacker packer_;
  Sampler sampler_;
  std::vector<PoolState> pools_;  // by slot: vectors whose prompt comes in chunks
};

}  // namespace

absl::StatusOr<std::unique_ptr<Runner>> MakeModelRunner(ModelRunnerParts parts) {
  try {
    return std::make_unique<ModelRunner>(std::move(parts));
  } catch (const std::exception& error) {
    return absl::ResourceExhaustedError("the KV cache does not fit: " + FirstLine(error.what()));
  }
}

}  // namespace automodeld
