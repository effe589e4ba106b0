#include "core/engine/model_runner.h"

#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include "core/engine/model_runner_graphs.h"
#include "core/engine/model_runner_inputs.h"
#include "core/engine/model_runner_pooler.h"
#include "core/engine/model_runner_sampler.h"
#include "core/listing.h"
#include "core/patch.h"
#include "core/status.h"
#include "kernels/host_copy.h"
#include "kernels/pool_rows.h"

namespace automodeld {

namespace {

absl::Status FromException(const std::exception& error) { return absl::InternalError(FirstLine(error.what())); }

// A result on its way to the host: at once on the CPU, through pinned memory behind an event on a GPU.
at::Tensor StartCopy(const at::Tensor& t) {
  if (!t.defined() || t.device().is_cpu()) return t;
  at::Tensor host = at::empty(t.sizes(), at::TensorOptions(t.dtype()).pinned_memory(true));
  QueueCopy(t, host);
  return host;
}

class ModelStep final : public LaunchedStep {
 public:
  ModelStep(size_t num_items, at::Device device) : num_items_(num_items), device_(device) {}

  // `rows` are those of `sampled`; logprobs is what each asked for.
  void AddTokens(const SampledTokens& sampled, const std::vector<SampledRow>& rows) {
    sampled_ = {.tokens = StartCopy(sampled.tokens),
                .logprobs = StartCopy(sampled.logprobs),
                .top_logprobs = StartCopy(sampled.top_logprobs),
                .top_tokens = StartCopy(sampled.top_tokens)};
    int64_t asking = 0;
    for (const SampledRow& row : rows) {
      const int logprobs = row.item->request->sampling.logprobs;
      rows_.push_back({.output = row.output, .logprobs = logprobs, .asking = asking});
      if (logprobs >= 0) ++asking;
    }
  }

  void AddVectors(PooledItems pooled) {
    pooled_ = {.values = StartCopy(pooled.values), .rows = std::move(pooled.rows)};
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
      for (const PooledItems::Row& row : pooled_.rows) {
        const auto* data = pooled_.values.const_data_ptr<float>() + row.row * pooled_.values.size(1);
        output.items[static_cast<size_t>(row.output)].embedding.assign(data, data + row.dimensions);
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
    int64_t asking = 0;  // its row among those that asked for log probabilities
  };

  void ReadToken(int64_t i, StepOutput& output) const {
    const Row& row = rows_[static_cast<size_t>(i)];
    ItemOutput& item = output.items[static_cast<size_t>(row.output)];
    item.token = static_cast<TokenId>(sampled_.tokens.data_ptr<int64_t>()[i]);
    if (row.logprobs < 0) return;
    item.logprob = {.token_id = item.token, .logprob = sampled_.logprobs.data_ptr<float>()[row.asking], .top = {}};
    const int64_t width = sampled_.top_tokens.size(1);
    for (int64_t k = 0; k < std::min<int64_t>(row.logprobs, width); ++k) {
      item.logprob.top.emplace_back(
          static_cast<TokenId>(sampled_.top_tokens.data_ptr<int64_t>()[row.asking * width + k]),
          sampled_.top_logprobs.data_ptr<float>()[row.asking * width + k]);
    }
  }

  size_t num_items_;
  at::Device device_;
  SampledTokens sampled_;
  std::vector<Row> rows_;
  PooledItems pooled_;
  std::optional<c10::Event> done_;
};

template <typename T>
int64_t Size(const std::vector<T>& values) {
  return static_cast<int64_t>(values.size());
}

// "64, 128"
template <typename Graph>
std::string RowsOf(const std::vector<Graph>& graphs) {
  std::vector<int64_t> rows;
  std::ranges::transform(graphs, std::back_inserter(rows), &Graph::rows);
  return fmt::format("{}", fmt::join(rows, ", "));
}

// A stream of the model's own, so that models do not wait for one another and steps can be recorded; on a CPU none.
std::optional<c10::Stream> NewStream(at::Device device) {
  if (device.is_cpu()) return std::nullopt;
  const c10::impl::VirtualGuardImpl impl(device.type());
  impl.synchronizeDevice(device.index());  // the weights were written on another stream
  return impl.getStreamFromGlobalPool(device, /*isHighPriority=*/false);
}

class ModelRunner final : public Runner {
 public:
  // `stream` is the current one; none on a CPU.
  ModelRunner(ModelRunnerParts parts, std::optional<c10::Stream> stream)
      : parts_(std::move(parts)),
        device_(parts_.options.device()),
        stream_(stream),
        upload_(device_),
        packer_(parts_.limits.page_size, parts_.limits.ragged),
        sampler_(parts_.ops, parts_.limits.max_num_seqs, parts_.shape.vocab_size, device_),
        pooler_(parts_.ops, parts_.limits.max_num_seqs, parts_.shape.hidden_size, parts_.options) {
    parts_.limits.look_ahead = device_.is_cpu() ? 0 : 1;
    if (parts_.limits.num_pages == 0) return;
    kv_ = std::make_unique<KvCache>(parts_.kv_arena, parts_.limits.least_pages(), parts_.limits.num_pages,
                                    parts_.shape.num_layers, parts_.limits.page_size, parts_.shape.num_kv_heads,
                                    parts_.shape.head_dim, parts_.kv_options);
  }

  ~ModelRunner() override {
    if (stream_) c10::impl::VirtualGuardImpl(device_.type()).synchronizeStream(*stream_);
  }

  // A note of what was recorded.
  std::string RecordGraphs() {
    const c10::InferenceMode inference;
    parts_.attention->Reserve({.max_sequences = 2 * int64_t{parts_.limits.max_num_seqs},
                               .max_pages = PagesOf(parts_.limits.max_model_len),
                               .max_tokens = parts_.limits.max_num_batched_tokens});
    StepGraphs graphs(device_);
    if (kv_ != nullptr) {
      graphs.RecordDecode(parts_.limits.max_num_seqs, [this](int64_t rows) { return PaddedDecode(rows); });
    }
    graphs.RecordPrompts(parts_.limits.max_num_batched_tokens, [this](int64_t rows) { return PaddedPrompts(rows); });
    graphs_ = std::move(graphs);  // all or none
    if (kv_ == nullptr) return fmt::format("inputs of {} tokens are CUDA graphs", RowsOf(graphs_.prompts()));
    return fmt::format("decode steps of {} rows and prompts of {} tokens are CUDA graphs", RowsOf(graphs_.decode()),
                       RowsOf(graphs_.prompts()));
  }

  bool CanRecordGraphs() const {
    return parts_.record_graphs && !device_.is_cpu() && parts_.attention->can_be_captured();
  }

  const RunnerLimits& limits() const override { return parts_.limits; }
  int mapped_pages() const override { return kv_ == nullptr ? 0 : static_cast<int>(kv_->mapped_pages()); }
  void RequestPages(int pages) override {
    if (kv_ != nullptr) kv_->RequestPages(pages);
  }

  absl::StatusOr<std::unique_ptr<LaunchedStep>> Launch(const Batch& batch) override {
    try {
      const c10::InferenceMode inference;
      const c10::OptionalStreamGuard on_stream(stream_);
      return LaunchStep(batch);
    } catch (const std::exception& error) {
      return FromException(error);
    }
  }

 private:
  std::unique_ptr<LaunchedStep> LaunchStep(const Batch& batch) {
    ForEachItem(batch, [this](const BatchItem& item, int64_t) { ResetIfFirst(item); });
    const std::vector<SampledRow> rows = SampledRows(batch);
    auto step = std::make_unique<ModelStep>(batch.size(), device_);
    const bool decode_only = batch.decode.size() == batch.size();
    if (const DecodeGraph* graph = decode_only ? graphs_.FindDecode(Size(batch.decode)) : nullptr) {
      Prepare(batch, {.decode = graph->rows}, rows, graph->rows, graph->inputs);
      graph->step->Launch();
      step->AddTokens(TokensOf(*graph, rows), rows);
    } else {
      const at::Tensor hidden = RunForward(batch, rows);
      if (!rows.empty()) {
        const at::Tensor picked = hidden.index_select(0, upload_.Get(sampled_rows_));
        step->AddTokens(sampler_.Sample(parts_.model->Logits(picked), sampling_.Get(upload_), rows), rows);
      }
      step->AddVectors(pooler_.Pool(hidden, upload_));
    }
    step->Seal();
    return step;
  }

  // [at least the batch's rows, hidden_size]
  at::Tensor RunForward(const Batch& batch, const std::vector<SampledRow>& rows) {
    if (const PromptGraph* graph = PromptGraphFor(batch)) {
      Prepare(batch, {.prompts = graph->rows}, rows, Size(rows), graph->inputs);
      graph->forward->Launch();
      return graph->hidden;
    }
    Prepare(batch, {.decode = Size(batch.decode)}, rows, Size(rows), {});
    return parts_.model->Forward(StepInputs());
  }

  const PromptGraph* PromptGraphFor(const Batch& batch) const {
    const std::vector<BatchItem>& prompts = parts_.limits.ragged ? batch.ragged : batch.prefill;
    if (prompts.size() != batch.size() || Size(prompts) > kMostRecordedPrompts) return nullptr;
    int64_t tokens = 0;
    for (const BatchItem& item : prompts) tokens += item.num_tokens;
    return graphs_.FindPrompts(tokens);
  }

  // Where rows ask for more than a draw, what the graph drew is drawn again.
  SampledTokens TokensOf(const DecodeGraph& graph, const std::vector<SampledRow>& rows) {
    const int64_t num_rows = Size(rows);
    if (!IsPlain(rows)) {
      return sampler_.Sample(graph.logits.narrow(0, 0, num_rows), sampling_.Get(upload_).Narrow(num_rows), rows);
    }
    return {.tokens = graph.tokens.narrow(0, 0, num_rows), .logprobs = {}, .top_logprobs = {}, .top_tokens = {}};
  }

  // Sends what the host knows of a step, with rows of padding up to step_rows and num_sampled, and plans attention.
  void Prepare(const Batch& batch, const StepRows& step_rows, const std::vector<SampledRow>& rows, int64_t num_sampled,
               const at::Tensor& to) {
    AddColumns(batch, step_rows, rows, num_sampled);
    upload_.Send(to);
    parts_.attention->Plan(packer_.Sequences(batch, step_rows));
  }

  void AddColumns(const Batch& batch, const StepRows& step_rows, const std::vector<SampledRow>& rows,
                  int64_t num_sampled) {
    std::vector<int64_t> sampled_rows(static_cast<size_t>(num_sampled), 0);
    std::ranges::transform(rows, sampled_rows.begin(), &SampledRow::row);
    upload_.Clear();
    packer_.Add(batch, step_rows, upload_);
    sampled_rows_ = upload_.Add(sampled_rows);
    sampling_.Add(rows, static_cast<size_t>(num_sampled), parts_.limits.max_num_seqs, upload_);
    pooler_.Add(batch, upload_);
  }

  Inputs StepInputs() const {
    Inputs in = packer_.Get(upload_, sampler_.last_tokens());
    in.kv = kv_.get();
    in.attention = parts_.attention.get();
    return in;
  }

  // Steps of padding, to be recorded.
  StepGraphs::DecodeStep PaddedDecode(int64_t rows) {
    const at::Tensor inputs = PrepareRecorded({.decode = rows}, rows);
    return {.inputs = inputs,
            .forward = [this] { return parts_.model->Logits(parts_.model->Forward(StepInputs())); },
            .draw = [this](const at::Tensor& logits) { return sampler_.Draw(logits, sampling_.Get(upload_)); }};
  }

  StepGraphs::PromptStep PaddedPrompts(int64_t rows) {
    return {.inputs = PrepareRecorded({.prompts = rows}, kMostRecordedPrompts),
            .forward = [this] { return parts_.model->Forward(StepInputs()); }};
  }

  // Where the uploads of these rows go, now padding. The graphs read the columns in front, which do not depend on a
  // step's items; what is pooled comes last.
  at::Tensor PrepareRecorded(const StepRows& rows, int64_t num_sampled) {
    AddColumns({}, rows, {}, num_sampled);
    constexpr int64_t kPooledBytes = kMostRecordedPrompts * int64_t{sizeof(PoolItem)};
    const at::Tensor inputs = at::empty({upload_.bytes() + kPooledBytes}, at::TensorOptions(at::kByte).device(device_));
    Prepare({}, rows, {}, num_sampled, inputs);
    return inputs;
  }

  int64_t PagesOf(int tokens) const { return (tokens + parts_.limits.page_size - 1) / parts_.limits.page_size; }

  void ResetIfFirst(const BatchItem& item) {
    if (item.first) sampler_.ResetSlot(item);
  }

  // The rows of the batch after which a token is drawn.
  static std::vector<SampledRow> SampledRows(const Batch& batch) {
    std::vector<SampledRow> rows;
    int64_t output = 0;
    ForEachItem(batch, [&](const BatchItem& item, int64_t row) {
      if (item.last && item.request->kind == Request::Kind::kGenerate) {
        rows.push_back({.item = &item, .output = output, .row = row + item.num_tokens - 1});
      }
      ++output;
    });
    return rows;
  }

  ModelRunnerParts parts_;
  const at::Device device_;
  const std::optional<c10::Stream> stream_;
  std::unique_ptr<KvCache> kv_;
  StepUpload upload_;
  StepUpload::Column sampled_rows_ = 0;
  InputPacker packer_;
  SamplingPacker sampling_;
  Sampler sampler_;
  Pooler pooler_;
  StepGraphs graphs_;
};

absl::Status RecordGraphs(ModelRunner& runner, Fallbacks& fallbacks, std::vector<std::string>& notes) {
  if (!runner.CanRecordGraphs()) return absl::OkStatus();
  absl::Status status = fallbacks.Begin("cuda_graphs");
  try {
    if (status.ok()) {
      notes.push_back(runner.RecordGraphs());
    }
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const std::exception& error) {
    status = FromException(error);
  }
  if (status.ok()) return status;
  return fallbacks.Take("cuda_graphs", std::string(status.message()), "every kernel launched by itself");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Runner>> MakeModelRunner(ModelRunnerParts parts, Fallbacks& fallbacks,
                                                        std::vector<std::string>& notes) {
  try {
    const std::optional<c10::Stream> stream = NewStream(parts.options.device());
    const c10::OptionalStreamGuard on_stream(stream);  // whose kernels are in order with those of the steps
    auto runner = std::make_unique<ModelRunner>(std::move(parts), stream);
    RETURN_IF_ERROR(RecordGraphs(*runner, fallbacks, notes));
    return runner;
  } catch (const std::exception& error) {
    return absl::ResourceExhaustedError("the KV cache does not fit: " + FirstLine(error.what()));
  }
}

}  // namespace automodeld
