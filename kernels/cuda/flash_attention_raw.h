// Decode attention over rows of q, k and v as the linear layer gives them: what qkv_rope_write_kv would do to a row is
// done by the blocks that need it. All blocks of a unit norm and rotate its queries; the one that has the sequence's
// newest key makes that and its value, writes both to the cache, and attends to them as the cache holds them.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_RAW_H_
#define KERNELS_CUDA_FLASH_ATTENTION_RAW_H_

#include <bit>

#include "kernels/cuda/flash_attention_tile.h"
#include "kernels/cuda/rope_head.h"

namespace automodeld {

// The block's heads: its queries, on their way into shared memory as FlashQueries puts them there, then the newest key
// and value where it has them. Neighbouring lanes share a head, and each thread has the same part of all its heads.
template <typename Tile>
class FlashRawQueries {
  using T = typename Tile::T;
  using Cached = std::conditional_t<Tile::kBytes, uint8_t, T>;
  static constexpr int kPack = 8;
  using Part = HeadPart<T, kPack>;
  static constexpr int kLanes = static_cast<int>(std::bit_ceil(static_cast<unsigned>(Tile::kDim / (2 * kPack))));
  static constexpr int kAtOnce = Tile::kThreads / kLanes;

 public:
  // Begins with what no kernel of the step writes. shared: the block's.
  __device__ FlashRawQueries(const FlashArgs& a, const FlashBlock& b, char* shared)
      : a_(a), b_(b), shared_(shared), heads_(b.rows + (b.end == b.s.context ? 2 : 0)) {
    if (a.raw.cos_sin != nullptr) position_ = a.raw.positions[b.s.first_row];
    slot_ = a.raw.slots[b.s.first_row];
    blank_.PlaceAt(static_cast<int>(threadIdx.x) % kLanes, a.raw.half, a.head_dim);
    weight_ = Weight(FirstHead());
  }

  // What can be done while the position arrives, then what depends on it.
  __device__ void Prepare() {
    ClearRest();
    if (a_.raw.cos_sin == nullptr) return;
    angles_ = blank_.LoadAngles(a_.raw.cos_sin + position_ * 2 * a_.raw.half, a_.raw.half);
  }

  // After AwaitPrevious: leaves queries and newest key and value in shared memory, the latter in the cache too.
  __device__ void Store() {
#pragma unroll 1  // nearly always all heads at once
    for (int first = 0; first < heads_; first += kAtOnce) {
      const int head = first + FirstHead();
      const bool is_q = head < b_.rows;
      const bool is_v = head > b_.rows;
      Part x = blank_;
      if (head < heads_) x.LoadFrom(Raw(head));
      if (first > 0) weight_ = Weight(head);
      Normalize(x, head);
      if (a_.raw.cos_sin != nullptr && !is_v) x.Rotate(angles_);
      if (is_q)
        StoreQuery(x, head);
      else if (head < heads_)
        StoreNewest(x, is_v);
    }
  }

  // Puts the newest key and value where tile `keys` has zeros for them, its row `row`; by a warp.
  __device__ void AddNewest(char* keys, int row) const {
    const int pieces = a_.head_dim * Tile::kElementBytes / 16;
    for (int i = static_cast<int>(threadIdx.x) % 32; i < 2 * pieces; i += 32) {
      const int is_v = i < pieces ? 0 : 1, at = (i - is_v * pieces) * 16;
      *reinterpret_cast<uint4*>(keys + is_v * Tile::kTileBytes + row * Tile::kKeyBytes + at) =
          *reinterpret_cast<const uint4*>(Newest(is_v) + at);
    }
  }

 private:
  // Heads are the block's queries, then the key, then the value.
  __device__ static int FirstHead() { return static_cast<int>(threadIdx.x) / kLanes; }
  __device__ const T* Raw(int head) const {
    const int of_kv = a_.heads + b_.kv_head + (head > b_.rows ? a_.kv_heads : 0);
    const int place = head < b_.rows ? b_.kv_head * a_.group + b_.first + head : of_kv;
    return static_cast<const T*>(a_.q) + b_.s.first_row * a_.q_stride + int64_t{place} * a_.head_dim;
  }

  __device__ typename Tile::Product* Query(int row) const {
    return reinterpret_cast<typename Tile::Product*>(shared_ + Tile::kRowsAt) + row * Tile::kStride;
  }
  __device__ char* Newest(int is_v) const { return shared_ + Tile::kNewestAt + is_v * Tile::kKeyBytes; }

  // Zeros where there is no query or column.
  __device__ void ClearRest() const {
    constexpr int kPieces = Tile::kDim / 8;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < Tile::kRows * kPieces; i += Tile::kThreads) {
      const int row = i / kPieces, column = i % kPieces * 8;
      if (row >= b_.rows || column >= a_.head_dim) Tile::Fragments::StoreQueries(T{}, Query(row), column, uint4{});
    }
  }

  __device__ const T* Norm(int head) const {
    return static_cast<const T*>(head < b_.rows ? a_.raw.q_norm : head == b_.rows ? a_.raw.k_norm : nullptr);
  }
  __device__ Part Weight(int head) const {
    Part weight = blank_;
    if (Norm(head) != nullptr) weight.LoadFrom(Norm(head));
    return weight;
  }

  // Every lane of a warp takes part in the sum.
  __device__ void Normalize(Part& x, int head) const {
    if (a_.raw.q_norm == nullptr && a_.raw.k_norm == nullptr) return;
    const float scale = InverseRms(LanesSum(x.Squares(), kLanes), a_.head_dim, a_.raw.eps);
    if (Norm(head) != nullptr) x.Normalize(scale, weight_);
  }

  __device__ void StoreQuery(const Part& x, int row) const {
    x.ForEachPack([&](int column, const Pack<T, kPack>& pack) {
      Tile::Fragments::StoreQueries(T{}, Query(row), column, *reinterpret_cast<const uint4*>(&pack));
    });
  }

  // Of the tiles of a group with many heads the first one writes to the cache.
  __device__ void StoreNewest(const Part& x, int is_v) const {
    const unsigned slot = static_cast<unsigned>(slot_), page_size = 16 * static_cast<unsigned>(a_.page_blocks);
    const int64_t place = slot / page_size * a_.source.page_stride + slot % page_size * a_.source.token_stride;
    auto* cache = static_cast<Cached*>(is_v ? a_.raw.values : a_.raw.keys) + place + b_.kv_head * a_.head_dim;
    auto* newest = reinterpret_cast<Cached*>(Newest(is_v));
    x.ForEachPack([&](int column, const Pack<T, kPack>& pack) {
      const auto held = Held(pack, is_v);
      automodeld::Store(newest + column, held);
      if (b_.first == 0) automodeld::Store(cache + column, held);
    });
  }

  __device__ Pack<Cached, kPack> Held(const Pack<T, kPack>& x, int is_v) const {
    if constexpr (Tile::kBytes)
      return ToE4m3Cache(x, is_v ? a_.raw.v_write_scale : a_.raw.k_write_scale);
    else
      return x;
  }

  const FlashArgs& a_;
  const FlashBlock& b_;
  char* const shared_;
  const int heads_;
  int64_t position_ = 0, slot_;
  Part blank_, weight_;
  Angles<T, kPack> angles_ = {};
};

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_RAW_H_
