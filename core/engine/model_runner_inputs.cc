#include "core/engine/model_runner_inputs.h"

#include <algorithm>

namespace automodeld {

namespace {

constexpr PageId kScratchPage = 0;

constexpr int64_t LastTokenOf(int64_t slot) { return -1 - slot; }  // as Inputs::token_ids says it

}  // namespace

void InputPacker::PackItem(const BatchItem& item) {
  for (int i = 0; i < item.num_tokens; ++i) {
    const int position = item.position + i;
    positions_.push_back(position);
    if (item.pages.empty()) continue;
    const PageId page = item.pages[static_cast<size_t>(position / page_size_)];
    kv_slots_.push_back(static_cast<int64_t>(page) * page_size_ + position % page_size_);
  }
  std::copy(item.token_ids.begin(), item.token_ids.end(), std::back_inserter(token_ids_));
}

void InputPacker::Pad(int64_t decode_rows, int64_t prompt_rows) {
  const auto rows = static_cast<size_t>(decode_rows + prompt_rows);
  positions_.resize(positions_.size() + rows, 0);
  if (!ragged_) kv_slots_.resize(kv_slots_.size() + rows, int64_t{kScratchPage} * page_size_);
  token_ids_.resize(token_ids_.size() + static_cast<size_t>(decode_rows), LastTokenOf(0));
  token_ids_.resize(token_ids_.size() + static_cast<size_t>(prompt_rows), 0);
}

void InputPacker::Add(const Batch& batch, const StepRows& rows, StepUpload& upload) {
  for (auto* values : {&positions_, &kv_slots_, &token_ids_}) values->clear();
  for (const BatchItem& item : batch.decode) token_ids_.push_back(LastTokenOf(item.slot));
  ForEachItem(batch, [this](const BatchItem& item, int64_t) { PackItem(item); });
  Pad(rows.decode - std::ssize(batch.decode), std::max<int64_t>(0, rows.prompts - std::ssize(token_ids_)));
  positions_column_ = upload.Add(positions_);
  kv_slots_column_ = upload.Add(kv_slots_);
  token_ids_column_ = upload.Add(token_ids_);
}

Inputs InputPacker::Get(const StepUpload& upload, const at::Tensor& last_tokens) const {
  Inputs in;
  in.positions = upload.Get(positions_column_);
  if (!kv_slots_.empty()) in.kv_slots = upload.Get(kv_slots_column_);
  in.token_ids = upload.Get(token_ids_column_);
  in.last_tokens = last_tokens;
  return in;
}

AttentionStep InputPacker::Sequences(const Batch& batch, const StepRows& rows) const {
  static constexpr PageId kPadding[] = {kScratchPage};
  AttentionStep step;
  step.page_size = page_size_;
  step.num_decode = rows.decode;
  step.recorded_rows = rows.prompts;
  step.recorded_ragged = rows.prompts > 0 && ragged_;
  ForEachItem(batch, [&step](const BatchItem& item, int64_t row) {
    auto& segment = item.pages.empty() ? step.ragged : step.paged;
    segment.push_back({.first_row = row,
                       .num_rows = item.num_tokens,
                       .context = item.position + item.num_tokens,
                       .pages = item.pages});
  });
  for (auto row = static_cast<int64_t>(batch.decode.size()); row < rows.decode; ++row) {
    step.paged.push_back({.first_row = row, .num_rows = 1, .context = 1, .pages = kPadding});
  }
  return step;
}

void SamplingPacker::Add(const std::vector<SampledRow>& rows, size_t num_rows, int64_t padding_slot,
                         StepUpload& upload) {
  for (auto* values : {&temperature_, &top_p_, &min_p_}) values->assign(num_rows, 0.0F);
  for (auto* values : {&top_k_, &seeds_, &positions_}) values->assign(num_rows, 0);
  slots_.assign(num_rows, padding_slot);
  FillColumns(rows, {.temperature = temperature_,
                     .top_p = top_p_,
                     .min_p = min_p_,
                     .top_k = top_k_,
                     .seeds = seeds_,
                     .positions = positions_,
                     .slots = slots_});
  columns_.clear();
  for (const auto* values : {&temperature_, &top_p_, &min_p_}) columns_.push_back(upload.Add(*values));
  for (const auto* values : {&top_k_, &seeds_, &positions_, &slots_}) columns_.push_back(upload.Add(*values));
}

SamplingTensors SamplingPacker::Get(const StepUpload& upload) const {
  const auto column = [&](size_t i) { return upload.Get(columns_[i]); };
  return {.temperature = column(0),
          .top_p = column(1),
          .min_p = column(2),
          .top_k = column(3),
          .seeds = column(4),
          .positions = column(5),
          .slots = column(6)};
}

}  // namespace automodeld
