#include "core/engine/model_runner_inputs.h"

#include <algorithm>

namespace automodeld {

at::Tensor InputPacker::ToDevice(const std::vector<int64_t>& values) const {
  const at::Tensor host = at::tensor(values, at::kLong);
  if (device_.is_cpu()) return host;
  return host.pin_memory().to(device_, /*non_blocking=*/true);
}

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

Inputs InputPacker::Pack(const Batch& batch, const at::Tensor& last_tokens) {
  for (auto* values : {&positions_, &kv_slots_, &token_ids_, &decode_slots_}) values->clear();
  for (const BatchItem& item : batch.decode) decode_slots_.push_back(item.slot);
  ForEachItem(batch, [this](const BatchItem& item, int64_t) { PackItem(item); });

  Inputs in;
  in.positions = ToDevice(positions_);
  if (!kv_slots_.empty()) in.kv_slots = ToDevice(kv_slots_);
  if (decode_slots_.empty()) {
    in.token_ids = ToDevice(token_ids_);
    return in;
  }
  in.token_ids = last_tokens.index_select(0, ToDevice(decode_slots_));
  if (!token_ids_.empty()) in.token_ids = at::cat({in.token_ids, ToDevice(token_ids_)});
  return in;
}

AttentionStep InputPacker::Sequences(const Batch& batch) const {
  AttentionStep step;
  step.page_size = page_size_;
  step.num_decode = static_cast<int64_t>(batch.decode.size());
  ForEachItem(batch, [&step](const BatchItem& item, int64_t row) {
    auto& segment = item.pages.empty() ? step.ragged : step.paged;
    segment.push_back({.first_row = row,
                       .num_rows = item.num_tokens,
                       .context = item.position + item.num_tokens,
                       .pages = item.pages});
  });
  return step;
}

}  // namespace automodeld
