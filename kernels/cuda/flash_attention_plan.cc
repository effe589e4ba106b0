#include "kernels/cuda/flash_attention_plan.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "kernels/host_copy.h"

namespace automodeld {
namespace {

constexpr int64_t kSequenceInts = sizeof(FlashSequence) / sizeof(int32_t);
constexpr int64_t kItemInts = sizeof(FlashItem) / sizeof(int32_t);
constexpr int64_t kSplitKeys = 64;      // fewer are not worth a block of threads
constexpr int64_t kBlocksPerSm = 2;     // of the decode kernel that run at a time
constexpr int64_t kMostSpread = 32;     // rows of a sequence; each reads the keys anew
constexpr int64_t kKeysPerSpread = 64;  // of the context, for each such row
constexpr int64_t kSmallestLarge = 64;  // packed rows, from which on a large tile is full enough

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t PagesOf(const SequenceRows& s, int64_t page_size) { return DivideUp(s.context, page_size); }

std::span<const SequenceRows> PrefillOf(const AttentionStep& step) {
  return std::span(step.paged).subspan(static_cast<size_t>(step.num_decode));
}

int64_t NumTiles(std::span<const SequenceRows> sequences, int64_t group, int64_t tile) {
  int64_t tiles = 0;
  for (const SequenceRows& s : sequences) tiles += DivideUp(s.num_rows * group, tile);
  return tiles;
}

bool IsSpread(const SequenceRows& s) { return s.num_rows <= kMostSpread && s.context >= s.num_rows * kKeysPerSpread; }

// The rows of sequences that are spread, at most `most` in all, follow the decode rows.
AttentionStep Spread(const AttentionStep& step, int64_t most) {
  AttentionStep spread = step;
  spread.paged.resize(static_cast<size_t>(step.num_decode));
  std::vector<SequenceRows> rest;
  for (const SequenceRows& s : PrefillOf(step)) {
    if (!IsSpread(s) || s.num_rows > most) {
      rest.push_back(s);
      continue;
    }
    most -= s.num_rows;
    for (int64_t i = 0; i < s.num_rows; ++i) {
      spread.paged.push_back({s.first_row + i, 1, s.context - s.num_rows + 1 + i, s.pages});
    }
  }
  spread.num_decode = static_cast<int64_t>(spread.paged.size());
  spread.paged.insert(spread.paged.end(), rest.begin(), rest.end());
  return spread;
}

void Check(const SequenceRows& s, int64_t page_size) {
  TORCH_CHECK(static_cast<int64_t>(s.pages.size()) >= PagesOf(s, page_size), "attention: ", s.pages.size(),
              " pages of ", page_size, " tokens cannot hold ", s.context, " tokens");
}

FlashSequence Packed(const SequenceRows& s, int64_t context, int64_t first_page) {
  return {static_cast<int32_t>(s.first_row), static_cast<int32_t>(s.num_rows), static_cast<int32_t>(context),
          static_cast<int32_t>(first_page)};
}

}  // namespace

void FlashPlan::Reserve(const AttentionCapacity& capacity) {
  const int64_t small = FlashRows(FlashKind::kSmall, shape_.instance_dim);
  int64_t items = DivideUp(capacity.max_tokens * shape_.group, small) + capacity.max_sequences;
  if (shape_.wide_tokens > 0) items += DivideUp(capacity.max_tokens, shape_.wide_tokens) + capacity.max_sequences;
  const int64_t ints =
      (capacity.max_sequences + shape_.multiprocessors) * (kSequenceInts + capacity.max_pages) + items * kItemInts;
  memory_ = at::empty({ints}, at::TensorOptions(at::kInt).device(device_));
  max_context_ = capacity.max_pages * page_size_;
  reserved_ = true;
}

// Large tiles read keys less often, but a few of them leave most of the device idle.
FlashTiles FlashPlan::Tiles(std::span<const SequenceRows> sequences, int64_t first_item) const {
  FlashTiles tiles{.kind = FlashKind::kLarge, .first_item = first_item};
  int64_t longest = 0;
  for (const SequenceRows& s : sequences) longest = std::max(longest, s.num_rows * shape_.group);
  tiles.num_items = NumTiles(sequences, shape_.group, FlashRows(tiles.kind, shape_.instance_dim));
  const bool few = tiles.num_items * shape_.kv_heads * 2 < shape_.multiprocessors;
  if (longest <= kSmallestLarge || few) {
    tiles.kind = FlashKind::kSmall;
    tiles.num_items = NumTiles(sequences, shape_.group, FlashRows(tiles.kind, shape_.instance_dim));
  } else if (shape_.wide_tokens > 0) {
    tiles.num_wide = NumTiles(sequences, 1, shape_.wide_tokens);
  }
  return tiles;
}

// As many as the rows may come to, however they are divided among sequences: each may have a tile that is not full.
FlashTiles FlashPlan::RecordedTiles(const AttentionStep& step) const {
  const auto& prompts = step.recorded_ragged ? step.ragged : step.paged;
  int64_t rows = 0;
  for (const SequenceRows& s : prompts) rows += s.num_rows;
  TORCH_CHECK(rows <= step.recorded_rows && std::ssize(prompts) <= kMostRecordedPrompts, "attention: ", rows,
              " rows of ", prompts.size(), " prompts do not fit into ", step.recorded_rows, " recorded ones");
  const SequenceRows one{.num_rows = step.recorded_rows, .pages = {}};
  FlashTiles tiles = Tiles({&one, 1}, 0);
  tiles.num_items += kMostRecordedPrompts - 1;
  if (tiles.num_wide > 0) tiles.num_wide += kMostRecordedPrompts - 1;
  return tiles;
}

int64_t FlashPlan::DecodeUnits(int64_t num_decode) const {
  return num_decode * shape_.kv_heads * DivideUp(shape_.group, FlashRows(FlashKind::kDecode, shape_.instance_dim));
}

// Once memory is reserved they depend on nothing but how many sequences there are, as a recorded launch must. Larger
// clusters add up sooner, but those of four leave places on the device empty.
FlashSplits FlashPlan::Splits(int64_t num_decode, int64_t longest) const {
  if (num_decode == 0) return {};
  const int64_t units = DecodeUnits(num_decode), places = shape_.multiprocessors * kBlocksPerSm;
  const int64_t context = reserved_ ? max_context_ : longest;
  const auto blocks = [&](int64_t cluster) {
    const int64_t taken = cluster == kMaxFlashCluster ? places * 7 / 8 : places;
    const int64_t most = std::min({taken / units, DivideUp(context, kSplitKeys), int64_t{kMaxFlashSplits}});
    return most / cluster * cluster;
  };
  const int64_t alone = std::max<int64_t>(blocks(1), 1), pairs = blocks(2), fours = blocks(kMaxFlashCluster);
  if (!shape_.clusters || pairs == 0) return {.blocks = alone, .cluster = 1};
  if (fours * 5 < alone * 4) return {.blocks = pairs, .cluster = 2};
  return {.blocks = fours, .cluster = kMaxFlashCluster};
}

// Where blocks of four warps would run in turns, twice as many blocks of two run at a time.
FlashKind FlashPlan::decode_kind() const {
  return DecodeUnits(num_decode_) > shape_.multiprocessors * kBlocksPerSm ? FlashKind::kDecodeMany : FlashKind::kDecode;
}

bool FlashPlan::Spreads(const AttentionStep& step) const {
  const auto prefill = PrefillOf(step);
  const int64_t tiles = NumTiles(prefill, shape_.group, FlashRows(FlashKind::kSmall, shape_.instance_dim));
  return shape_.causal && tiles * shape_.kv_heads < shape_.multiprocessors && std::ranges::any_of(prefill, IsSpread);
}

void FlashPlan::Send(const AttentionStep& step) {
  const bool spreads = step.recorded_rows == 0 && Spreads(step);
  fresh_keys_ = spreads ? kMostSpread : 1;
  SendTiles(spreads ? Spread(step, shape_.multiprocessors) : step);
}

void FlashPlan::SendTiles(const AttentionStep& step) {
  TORCH_CHECK(step.page_size % 16 == 0, "attention: pages of ", step.page_size, " tokens are not of sixteens");
  page_size_ = step.page_size;
  num_decode_ = step.num_decode;
  const bool recorded = step.recorded_rows > 0;
  num_sequences_ = recorded ? kMostRecordedPrompts + 1 : std::ssize(step.paged) + std::ssize(step.ragged);
  prefill_ = recorded && !step.recorded_ragged ? RecordedTiles(step) : Tiles(PrefillOf(step), 0);
  ragged_ = recorded && step.recorded_ragged ? RecordedTiles(step) : Tiles(step.ragged, prefill_.end());
  num_items_ = ragged_.end();
  int64_t ints = num_sequences_ * kSequenceInts + num_items_ * kItemInts, longest = 0, num_pages = 0;
  for (const SequenceRows& s : step.paged) {
    Check(s, step.page_size);
    num_pages += PagesOf(s, step.page_size);
    longest = std::max(longest, s.context);
  }
  ints += num_pages;
  first_prefill_page_ = num_pages;
  prefill_rows_ = 0;
  for (const SequenceRows& s : PrefillOf(step)) {
    first_prefill_page_ -= PagesOf(s, step.page_size);
    prefill_rows_ += s.num_rows;
  }
  num_prefill_pages_ = recorded ? 0 : num_pages - first_prefill_page_;
  splits_ = Splits(num_decode_, longest);
  if (ints == 0) return;
  if (!tickets_.defined()) {
    tickets_ = at::zeros({shape_.multiprocessors * kBlocksPerSm}, at::TensorOptions(at::kInt).device(device_));
  }
  if (!memory_.defined() || memory_.size(0) < ints) {
    TORCH_CHECK(!reserved_, "attention: a step of ", ints, " words is larger than the ", memory_.size(0), " reserved");
    memory_ = at::empty({ints + ints / 2}, at::TensorOptions(at::kInt).device(device_));
  }
  const at::Tensor host = at::empty({ints}, at::TensorOptions(at::kInt).pinned_memory(true));
  Write(step, host.mutable_data_ptr<int32_t>());
  QueueCopy(host, memory_.narrow(0, 0, ints));
}

// A causal sequence's last rows see the most keys: they begin first, of wide tiles those of all sequences. What is left
// of a list are items of the last sequence, which then is empty.
void FlashPlan::WriteItems(std::span<const SequenceRows> sequences, int64_t index, const FlashTiles& tiles,
                           FlashItem* to) const {
  const FlashItem padding{.sequence = static_cast<int32_t>(num_sequences_ - 1), .first = 0};
  std::fill_n(to + tiles.first_item, tiles.num_items, padding);
  std::fill_n(to + tiles.first_wide(), tiles.num_wide, padding);
  const int64_t large = FlashRows(tiles.kind, shape_.instance_dim), tokens = shape_.wide_tokens;
  FlashItem* item = to + tiles.first_item;
  std::vector<std::pair<int64_t, FlashItem>> wide;  // and how many keys, but for the window
  for (const SequenceRows& s : sequences) {
    const auto i = static_cast<int32_t>(index++);
    for (int64_t n = DivideUp(s.num_rows * shape_.group, large); n-- > 0;) {
      *item++ = {i, static_cast<int32_t>(n * large)};
    }
    for (int64_t first = 0; tiles.num_wide > 0 && first < s.num_rows; first += tokens) {
      const int64_t unseen = shape_.causal ? std::max<int64_t>(s.num_rows - first - tokens, 0) : 0;
      wide.push_back({s.context - unseen, {i, static_cast<int32_t>(first * shape_.group)}});
    }
  }
  std::ranges::stable_sort(wide, std::greater(), [](const auto& keyed) { return keyed.first; });
  std::ranges::transform(wide, to + tiles.first_wide(), [](const auto& keyed) { return keyed.second; });
}

void FlashPlan::Write(const AttentionStep& step, int32_t* to) const {
  auto* sequence = reinterpret_cast<FlashSequence*>(to);
  const FlashSequence* const sequences_end = sequence + num_sequences_;
  auto* items = reinterpret_cast<FlashItem*>(to + num_sequences_ * kSequenceInts);
  int32_t* const pages = to + num_sequences_ * kSequenceInts + num_items_ * kItemInts;
  int64_t num_pages = 0;
  for (const SequenceRows& s : step.paged) {
    *sequence++ = Packed(s, s.context, num_pages);
    std::copy_n(s.pages.data(), PagesOf(s, step.page_size), pages + num_pages);
    num_pages += PagesOf(s, step.page_size);
  }
  for (const SequenceRows& s : step.ragged) *sequence++ = Packed(s, s.num_rows, -1);
  while (sequence != sequences_end) *sequence++ = {};
  WriteItems(PrefillOf(step), step.num_decode, prefill_, items);
  WriteItems(step.ragged, std::ssize(step.paged), ragged_, items);
}

const FlashSequence* FlashPlan::sequences() const {
  return reinterpret_cast<const FlashSequence*>(memory_.const_data_ptr<int32_t>());
}

const FlashItem* FlashPlan::items(int64_t first) const {
  const int32_t* begin = memory_.const_data_ptr<int32_t>() + num_sequences_ * kSequenceInts;
  return reinterpret_cast<const FlashItem*>(begin) + first;
}

const int32_t* FlashPlan::pages() const {
  return memory_.const_data_ptr<int32_t>() + num_sequences_ * kSequenceInts + num_items_ * kItemInts;
}

}  // namespace automodeld
