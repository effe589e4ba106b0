// The host's part of flash_attention_2 on CUDA: a step's sequences, tiles and pages as one array in device memory.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_PLAN_H_
#define KERNELS_CUDA_FLASH_ATTENTION_PLAN_H_

#include "kernels/attention.h"
#include "kernels/cuda/flash_attention.h"

namespace automodeld {

// What the layout depends on besides the step.
struct FlashDevice {
  int64_t kv_heads = 1, group = 1;
  int64_t instance_dim = 128;  // the head size that the kernels are compiled for
  bool causal = true;
  int64_t wide_tokens = 0;  // of a tile of flash_attention_wide.h's; 0: that is not there
  int64_t multiprocessors = 1;
  bool clusters = false;  // whether blocks can run in clusters
};

// How many blocks share the keys of a decode tile and a key head, in clusters of how many.
struct FlashSplits {
  int64_t blocks = 1, cluster = 1;
};

// One launch of tiles that are listed, and the same rows once more in wide tiles: which of the two is launched depends
// on the keys' type and layout. None of these where there are none, or other tiles are small ones.
struct FlashTiles {
  FlashKind kind = FlashKind::kSmall;
  int64_t first_item = 0, num_items = 0, num_wide = 0;

  int64_t first_wide() const { return first_item + num_items; }
  int64_t end() const { return first_wide() + num_wide; }
};

// Decode sequences come first in the array and have no list: for a step of them alone, the places of everything but
// the pages' end depend on how many they are. So they do for recorded prompts on the number of rows: the array is
// padded with empty sequences, and the list with items of one. A few rows over a long context are sent as if each were
// a sequence's only one, because only decode splits keys over the device. Memory is kept until a step needs more, and
// for good after Reserve.
class FlashPlan {
 public:
  FlashPlan(const FlashDevice& shape, at::Device device) : shape_(shape), device_(device) {}

  void Reserve(const AttentionCapacity& capacity);
  // One asynchronous copy on the current stream.
  void Send(const AttentionStep& step);

  int64_t num_decode() const { return num_decode_; }
  // Whether the step is rows of different sequences, one of each, and nothing else.
  bool is_decode() const { return num_decode_ > 0 && num_items_ == 0 && fresh_keys_ == 1; }
  const FlashSplits& splits() const { return splits_; }
  FlashKind decode_kind() const;
  int64_t page_size() const { return page_size_; }
  const FlashTiles& prefill() const { return prefill_; }
  const FlashTiles& ragged() const { return ragged_; }

  // Of a decode sequence's keys, how many at its end the step itself may write.
  int64_t fresh_keys() const { return fresh_keys_; }
  const FlashSequence* sequences() const;
  const FlashItem* items(int64_t first) const;
  const int32_t* pages() const;
  // Where the pages of the rows in prefill() begin among these, and how many they are: as they are sent, not recorded.
  int64_t first_prefill_page() const { return first_prefill_page_; }
  int64_t num_prefill_pages() const { return num_prefill_pages_; }
  int64_t prefill_rows() const { return prefill_rows_; }
  // A zero for each decode tile and key head of a launch that is split; kernels leave zeros there.
  int32_t* tickets() const { return tickets_.mutable_data_ptr<int32_t>(); }

 private:
  bool Spreads(const AttentionStep& step) const;
  void SendTiles(const AttentionStep& step);
  FlashTiles Tiles(std::span<const SequenceRows> sequences, int64_t first_item) const;
  FlashTiles RecordedTiles(const AttentionStep& step) const;
  int64_t DecodeUnits(int64_t num_decode) const;  // tiles of so many sequences and all key heads
  FlashSplits Splits(int64_t num_decode, int64_t longest) const;
  void WriteItems(std::span<const SequenceRows> sequences, int64_t index, const FlashTiles& tiles, FlashItem* to) const;
  void Write(const AttentionStep& step, int32_t* to) const;

  FlashDevice shape_;
  at::Device device_;
  at::Tensor memory_;   // [ints] int32: sequences, items, pages
  at::Tensor tickets_;  // [as many as run at a time] int32
  bool reserved_ = false;
  int64_t max_context_ = 0;  // of a sequence, once reserved
  int64_t num_sequences_ = 0, num_items_ = 0, num_decode_ = 0, page_size_ = 16, fresh_keys_ = 1;
  int64_t first_prefill_page_ = 0, num_prefill_pages_ = 0, prefill_rows_ = 0;
  FlashSplits splits_;
  FlashTiles prefill_, ragged_;
};

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_PLAN_H_
