#include "core/engine/model_runner_pooler.h"

#include <optional>

#include "core/engine/model_runner_inputs.h"

namespace automodeld {

namespace {

PoolKind KindOf(Pooling pooling) {
  switch (pooling) {
    case Pooling::kCls:
      return PoolKind::kFirst;
    case Pooling::kMax:
      return PoolKind::kMax;
    case Pooling::kLastToken:
      return PoolKind::kLast;
    case Pooling::kWeightedMean:
      return PoolKind::kWeightedMean;
    case Pooling::kMeanSqrtLen:
      return PoolKind::kMeanSqrtLen;
    case Pooling::kMean:
      break;
  }
  return PoolKind::kMean;
}

}  // namespace

Pooler::Pooler(const Ops& ops, int max_num_seqs, int64_t hidden_size, at::TensorOptions options)
    : ops_(ops), num_slots_(max_num_seqs), hidden_size_(hidden_size), options_(options.dtype(at::kFloat)) {}

void Pooler::AddItem(const BatchItem& item, int64_t first_row, int64_t output) {
  const EmbedParams& params = item.request->embed;
  const bool whole = item.first && item.last;
  if (item.last) {
    const int64_t dimensions = params.dimensions > 0 ? params.dimensions : hidden_size_;
    rows_.push_back({.row = static_cast<int64_t>(items_.size()), .output = output, .dimensions = dimensions});
  }
  if (!whole && !partial_.defined()) partial_ = at::zeros({num_slots_, hidden_size_}, options_);
  items_.push_back({.first_row = first_row,
                    .num_rows = item.num_tokens,
                    .position = item.position,
                    .kind = KindOf(params.pooling),
                    .partial = whole ? -1 : item.slot,
                    .last = item.last ? 1 : 0,
                    .dimensions = params.dimensions,
                    .normalize = params.normalize ? 1 : 0});
}

void Pooler::Add(const Batch& batch, StepUpload& upload) {
  items_.clear();
  rows_.clear();
  int64_t output = 0;
  ForEachItem(batch, [&](const BatchItem& item, int64_t row) {
    if (item.request->kind == Request::Kind::kEmbed) AddItem(item, row, output);
    ++output;
  });
  if (!items_.empty()) column_ = upload.Add(NumbersOf(items_));
}

PooledItems Pooler::Pool(const at::Tensor& hidden, const StepUpload& upload) {
  if (items_.empty()) return {};
  const at::Tensor table = upload.Get(column_).view({static_cast<int64_t>(items_.size()), kPoolItemSize});
  const std::optional<at::Tensor> partial = partial_.defined() ? std::optional(partial_) : std::nullopt;
  const at::Tensor vectors = ops_.pool_rows(hidden, table, partial);
  if (rows_.empty()) return {};
  return {.values = vectors, .rows = rows_};
}

}  // namespace automodeld
