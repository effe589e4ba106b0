// The maths of flash attention on the CPU for one block: some rows of one sequence, of all query heads that share one
// key head. Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018); Dao et al., "FlashAttention"
// (2022): keys come 32 at a time, and each row keeps its running maximum m, sum l and weighted values o:
//   m' = max(m, s);  p = exp(s - m');  l' = l exp(m - m') + sum(p);  o' = o exp(m - m') + p V;  result o / l
// A row has the same bits in every block that holds it: a prompt may come in chunks of any size, and be computed again,
// without a key or value of a later layer falling to another side when it is rounded to the cache's type.
#ifndef KERNELS_CPU_ATTENTION_BLOCK_H_
#define KERNELS_CPU_ATTENTION_BLOCK_H_

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cpu/simd.h"

namespace automodeld {

inline constexpr int64_t kKeysPerBlock = 32;
inline constexpr int64_t kMaxVectorFloats = 16;

// Where keys (or values) of one head lie, elements of `type` one after the other: token t of the sequence is at
// Find(t).
struct TokenRows {
  const char* base = nullptr;
  const int32_t* pages = nullptr;  // null: one after the other
  int64_t page_size = 1;
  int64_t page_stride = 0, token_stride = 0;  // bytes
  at::ScalarType type = at::kFloat;           // or kBFloat16, kHalf, kFloat8_e4m3fn

  // Pointers to tokens [begin, begin + n).
  AUTOMODELD_INLINE void Find(int64_t begin, int64_t n, const char** rows) const {
    int64_t page = begin / page_size, offset = begin % page_size;
    for (int64_t i = 0; i < n; ++i) {
      rows[i] = base + (pages != nullptr ? pages[page] * page_stride : page * page_size * token_stride) +
                offset * token_stride;
      if (++offset == page_size) {
        offset = 0;
        ++page;
      }
    }
  }
};

// Rows r = token * group + head of the block; token i of it is at position first_position + i.
template <typename T>
struct AttentionBlock {
  const T* q = nullptr;  // [tokens, group, head_dim], tokens q_stride apart
  T* out = nullptr;      // the same, out_stride apart
  int64_t q_stride = 0, out_stride = 0;
  int64_t tokens = 0, group = 0, head_dim = 0;
  int64_t first_position = 0, context = 0, window = 0;
  bool causal = true;
  float score_factor = 1.0f, result_factor = 1.0f;
  TokenRows keys, values;
};

// Buffers of one thread, aligned to a vector. dim is head_dim rounded up to a vector; what is past head_dim is 0.
struct AttentionScratch {
  float* q;         // [rows, dim], scaled
  float* o;         // [rows, dim]
  float* scores;    // [rows, kKeysPerBlock]
  float* maximum;   // [rows]
  float* sum;       // [rows]
  float* k;         // [kKeysPerBlock, dim]
  float* v;         // [kKeysPerBlock, dim]
  float* k_turned;  // [dim, kKeysPerBlock]

  static int64_t Size(int64_t rows, int64_t dim) {
    return rows * (2 * dim + kKeysPerBlock + 2) + 3 * kKeysPerBlock * dim + 2 * kMaxVectorFloats;
  }
  AttentionScratch(float* memory, int64_t rows, int64_t dim)
      : q(memory),
        o(q + rows * dim),
        scores(o + rows * dim),
        maximum(scores + rows * kKeysPerBlock),
        sum(maximum + (rows + kMaxVectorFloats - 1) / kMaxVectorFloats * kMaxVectorFloats),
        k(sum + (rows + kMaxVectorFloats - 1) / kMaxVectorFloats * kMaxVectorFloats),
        v(k + kKeysPerBlock * dim),
        k_turned(v + kKeysPerBlock * dim) {}
};

namespace flash {

template <int W, typename T>
AUTOMODELD_INLINE void Widen(const T* from, float* to, int64_t n, int64_t dim) {
  int64_t d = 0;
  for (; d + W <= n; d += W) Store<W>(to + d, Load<W>(from + d));
  for (; d < dim; d += W) Store<W>(to + d, n > d ? LoadPart<W>(from + d, n - d) : Floats<W>{});
}

// The rows of a head lie a token apart, too far for the processor to see what comes next.
AUTOMODELD_INLINE void Prefetch(const char* row, int64_t bytes) {
  constexpr int64_t kLine = 64;
  for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(row + i, /*write=*/0, /*locality=*/2);
}

// rows[i]: element rows `found` of T as floats, padded with zeros to `dim`: in place if they are that already, else in
// `buffer`. The rows `next` are fetched meanwhile.
template <int W, typename T>
AUTOMODELD_INLINE void WidenRows(const char* const* found, int64_t n, const char* const* next, int64_t num_next,
                                 int64_t head_dim, int64_t dim, float* buffer, const float** rows) {
  for (int64_t i = 0; i < n; ++i) {
    if (i < num_next) Prefetch(next[i], head_dim * static_cast<int64_t>(sizeof(T)));
    const T* from = reinterpret_cast<const T*>(found[i]);
    if constexpr (std::is_same_v<T, float>) {
      if (head_dim == dim) {
        rows[i] = from;
        continue;
      }
    }
    Widen<W>(from, buffer + i * dim, head_dim, dim);
    rows[i] = buffer + i * dim;
  }
}

// rows[i]: token begin + i, as from WidenRows. The type is looked at once per block of keys, which costs nothing, so
// that the rest is compiled once for every type of cache.
template <int W>
AUTOMODELD_INLINE void LoadTokens(const TokenRows& source, int64_t begin, int64_t end, int64_t head_dim, int64_t dim,
                                  float* buffer, const float** rows) {
  const int64_t n = std::min(kKeysPerBlock, end - begin), left = std::min(kKeysPerBlock, end - begin - n);
  const char *found[kKeysPerBlock], *next[kKeysPerBlock];
  source.Find(begin, n, found);
  source.Find(begin + n, left, next);
  if (source.type == at::kFloat) {
    WidenRows<W, float>(found, n, next, left, head_dim, dim, buffer, rows);
  } else if (source.type == at::kBFloat16) {
    WidenRows<W, at::BFloat16>(found, n, next, left, head_dim, dim, buffer, rows);
  } else if (source.type == at::kHalf) {
    WidenRows<W, at::Half>(found, n, next, left, head_dim, dim, buffer, rows);
  } else {
    WidenRows<W, at::Float8_e4m3fn>(found, n, next, left, head_dim, dim, buffer, rows);
  }
}

// turned[d][i] = rows[i][d]; columns from n on keep what they had, a finite value.
AUTOMODELD_INLINE void Turn(const float* const* rows, int64_t n, int64_t dim, float* turned) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int64_t d = 0; d < dim; d += 4) {
      const Floats<4> a = Load<4>(rows[i] + d), b = Load<4>(rows[i + 1] + d);
      const Floats<4> c = Load<4>(rows[i + 2] + d), e = Load<4>(rows[i + 3] + d);
      const Floats<4> ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                      ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Floats<4> ce_low = __builtin_shufflevector(c, e, 0, 4, 1, 5),
                      ce_high = __builtin_shufflevector(c, e, 2, 6, 3, 7);
      float* to = turned + d * kKeysPerBlock + i;
      Store<4>(to, __builtin_shufflevector(ab_low, ce_low, 0, 1, 4, 5));
      Store<4>(to + kKeysPerBlock, __builtin_shufflevector(ab_low, ce_low, 2, 3, 6, 7));
      Store<4>(to + 2 * kKeysPerBlock, __builtin_shufflevector(ab_high, ce_high, 0, 1, 4, 5));
      Store<4>(to + 3 * kKeysPerBlock, __builtin_shufflevector(ab_high, ce_high, 2, 3, 6, 7));
    }
  }
  for (; i < n; ++i) {
    for (int64_t d = 0; d < dim; ++d) turned[d * kKeysPerBlock + i] = rows[i][d];
  }
}

// scores[r][i] = q[r] . rows[i], for few rows: a dot product each.
template <int W>
AUTOMODELD_INLINE void ScoresOfFew(const float* q, int64_t rows, int64_t dim, const float* const* keys, int64_t n,
                                   float* scores) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t r = 0; r < rows; ++r) {
      Floats<W> sum = Load<W>(q + r * dim) * Load<W>(keys[i]);
      for (int64_t d = W; d < dim; d += W) sum += Load<W>(q + r * dim + d) * Load<W>(keys[i] + d);
      scores[r * kKeysPerBlock + i] = Sum<W>(sum);
    }
  }
}

// sum[r] = q[r] . two vectors of keys, lanes are keys: of the columns First, First + Step, ..., added in the order of
// ScoresOfFew, where column d is in lane d modulo W, and of Sum, which adds lane i + W / 2 to lane i and so on.
template <int W, int R, int First, int Step>
AUTOMODELD_INLINE void SumColumns(const float* q, int64_t dim, const float* turned, Floats<W> (&sum)[R][2]) {
  if constexpr (Step < W) {
    Floats<W> other[R][2];
    SumColumns<W, R, First, 2 * Step>(q, dim, turned, sum);
    SumColumns<W, R, First + Step, 2 * Step>(q, dim, turned, other);
    AUTOMODELD_UNROLL
    for (int r = 0; r < R; ++r) {
      sum[r][0] += other[r][0];
      sum[r][1] += other[r][1];
    }
  } else {
    AUTOMODELD_UNROLL
    for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = Floats<W>{};
    for (int64_t d = First; d < dim; d += W) {
      const Floats<W> a = Load<W>(turned + d * kKeysPerBlock);
      const Floats<W> b = Load<W>(turned + d * kKeysPerBlock + W);
      AUTOMODELD_UNROLL
      for (int r = 0; r < R; ++r) {
        sum[r][0] += a * q[r * dim + d];
        sum[r][1] += b * q[r * dim + d];
      }
    }
  }
}

// What ScoresOfFew gives, to the bit, for R rows at a time from keys turned.
template <int W, int R>
AUTOMODELD_INLINE void ScoresOfTile(const float* q, int64_t dim, const float* turned, float* scores) {
  for (int64_t i = 0; i < kKeysPerBlock; i += 2 * W) {
    Floats<W> sum[R][2];
    SumColumns<W, R, 0, 1>(q, dim, turned + i, sum);
    AUTOMODELD_UNROLL
    for (int r = 0; r < R; ++r) {
      Store<W>(scores + r * kKeysPerBlock + i, sum[r][0]);
      Store<W>(scores + r * kKeysPerBlock + i + W, sum[r][1]);
    }
  }
}

// o[r] += scores[r] . V for R rows and columns [d, d + C * W).
template <int W, int R, int C>
AUTOMODELD_INLINE void AddValuesTile(const float* scores, const float* const* values, int64_t n, int64_t dim, int64_t d,
                                     float* o) {
  Floats<W> sum[R][C];
  AUTOMODELD_UNROLL
  for (int r = 0; r < R; ++r) {
    AUTOMODELD_UNROLL
    for (int c = 0; c < C; ++c) sum[r][c] = Load<W>(o + r * dim + d + c * W);
  }
  for (int64_t i = 0; i < n; ++i) {
    AUTOMODELD_UNROLL
    for (int c = 0; c < C; ++c) {
      const Floats<W> value = Load<W>(values[i] + d + c * W);
      AUTOMODELD_UNROLL
      for (int r = 0; r < R; ++r) sum[r][c] += value * scores[r * kKeysPerBlock + i];
    }
  }
  AUTOMODELD_UNROLL
  for (int r = 0; r < R; ++r) {
    AUTOMODELD_UNROLL
    for (int c = 0; c < C; ++c) Store<W>(o + r * dim + d + c * W, sum[r][c]);
  }
}

template <int W, int R>
AUTOMODELD_INLINE void AddValues(const float* scores, const float* const* values, int64_t n, int64_t dim, float* o) {
  constexpr int kColumns = W == 16 ? 4 : 2;  // as many as there are registers for
  int64_t d = 0;
  for (; d + kColumns * W <= dim; d += kColumns * W) AddValuesTile<W, R, kColumns>(scores, values, n, dim, d, o);
  for (; d < dim; d += W) AddValuesTile<W, R, 1>(scores, values, n, dim, d, o);
}

template <int W>
AUTOMODELD_INLINE Ints<W> LaneNumbers() {
  Ints<W> lanes;
  for (int i = 0; i < W; ++i) lanes[i] = i;
  return lanes;
}

// Scores of keys outside [from, to) become minus infinity.
template <int W>
AUTOMODELD_INLINE void Hide(float* scores, int64_t from, int64_t to) {
  const auto low = static_cast<int32_t>(std::clamp<int64_t>(from, 0, kKeysPerBlock));
  const auto high = static_cast<int32_t>(std::clamp<int64_t>(to, 0, kKeysPerBlock));
  for (int32_t i = 0; i < kKeysPerBlock; i += W) {
    const Ints<W> lanes = LaneNumbers<W>() + i;
    const Floats<W> hidden = Broadcast<W>(-std::numeric_limits<float>::infinity());
    Floats<W> x = Load<W>(scores + i);
    x = lanes < low ? hidden : x;
    Store<W>(scores + i, lanes >= high ? hidden : x);
  }
}

// The step of the online softmax for one row: scores become weights; m, l and o are brought up to date but for p V.
template <int W>
AUTOMODELD_INLINE void Weigh(float* scores, float& maximum, float& sum, float* o, int64_t dim) {
  Floats<W> largest = Load<W>(scores);
  for (int64_t i = W; i < kKeysPerBlock; i += W) largest = Max<W>(largest, Load<W>(scores + i));
  const float now = std::max(maximum, MaxOf<W>(largest));
  const float shift = now == -std::numeric_limits<float>::infinity() ? 0.0f : now;  // nothing seen yet: all weights 0
  Floats<W> total = {};
  for (int64_t i = 0; i < kKeysPerBlock; i += W) {
    const Floats<W> weight = Exp<W>(Load<W>(scores + i) - shift);
    Store<W>(scores + i, weight);
    total += weight;
  }
  if (now > maximum) {
    const float factor = Exp<4>(Broadcast<4>(maximum - shift))[0];
    sum *= factor;
    for (int64_t d = 0; d < dim; d += W) Store<W>(o + d, Load<W>(o + d) * factor);
    maximum = now;
  }
  sum += Sum<W>(total);
}

// The keys that a row at `position` sees.
template <typename T>
AUTOMODELD_INLINE int64_t FirstKey(const AttentionBlock<T>& b, int64_t position) {
  return b.window > 0 ? std::max<int64_t>(0, position - b.window + 1) : 0;
}
template <typename T>
AUTOMODELD_INLINE int64_t EndKey(const AttentionBlock<T>& b, int64_t position) {
  return b.causal ? std::min(b.context, position + 1) : b.context;
}

template <int W, typename T>
AUTOMODELD_INLINE void LoadQueries(const AttentionBlock<T>& b, int64_t dim, AttentionScratch& s) {
  for (int64_t r = 0; r < b.tokens * b.group; ++r) {
    const T* from = b.q + r / b.group * b.q_stride + r % b.group * b.head_dim;
    Widen<W>(from, s.q + r * dim, b.head_dim, dim);
    for (int64_t d = 0; d < dim; d += W) {
      Store<W>(s.q + r * dim + d, Load<W>(s.q + r * dim + d) * b.score_factor);
      Store<W>(s.o + r * dim + d, Floats<W>{});
    }
    s.maximum[r] = -std::numeric_limits<float>::infinity();
    s.sum[r] = 0.0f;
  }
}

template <int W, typename T>
AUTOMODELD_INLINE void StoreResults(const AttentionBlock<T>& b, int64_t dim, const AttentionScratch& s) {
  for (int64_t r = 0; r < b.tokens * b.group; ++r) {
    T* to = b.out + r / b.group * b.out_stride + r % b.group * b.head_dim;
    const float factor = b.result_factor / s.sum[r];
    for (int64_t d = 0; d < b.head_dim; d += W) {
      StorePart<W>(to + d, Load<W>(s.o + r * dim + d) * factor, b.head_dim - d);
    }
  }
}

template <int W, typename T>
AUTOMODELD_INLINE void AddKeys(const AttentionBlock<T>& b, int64_t begin, int64_t end, int64_t dim,
                               AttentionScratch& s) {
  constexpr int64_t kFewRows = 6;  // from so many on, turning the keys is cheaper than adding lanes
  const int64_t rows = b.tokens * b.group, n = std::min(kKeysPerBlock, end - begin);
  const float* keys[kKeysPerBlock];
  const float* values[kKeysPerBlock];
  LoadTokens<W>(b.keys, begin, end, b.head_dim, dim, s.k, keys);
  LoadTokens<W>(b.values, begin, end, b.head_dim, dim, s.v, values);
  if (rows < kFewRows) {
    ScoresOfFew<W>(s.q, rows, dim, keys, n, s.scores);
  } else {
    Turn(keys, n, dim, s.k_turned);
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      ScoresOfTile<W, 4>(s.q + r * dim, dim, s.k_turned, s.scores + r * kKeysPerBlock);
    }
    for (; r < rows; ++r) ScoresOfTile<W, 1>(s.q + r * dim, dim, s.k_turned, s.scores + r * kKeysPerBlock);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t position = b.first_position + r / b.group;
    const int64_t from = FirstKey(b, position) - begin, to = std::min(EndKey(b, position) - begin, n);
    if (from > 0 || to < kKeysPerBlock) Hide<W>(s.scores + r * kKeysPerBlock, from, to);
    Weigh<W>(s.scores + r * kKeysPerBlock, s.maximum[r], s.sum[r], s.o + r * dim, dim);
  }
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) AddValues<W, 4>(s.scores + r * kKeysPerBlock, values, n, dim, s.o + r * dim);
  for (; r < rows; ++r) AddValues<W, 1>(s.scores + r * kKeysPerBlock, values, n, dim, s.o + r * dim);
}

}  // namespace flash

// Computes one block. `memory` has AttentionScratch::Size(rows, dim) floats, aligned to 64 bytes and finite.
template <typename T>
struct AttendBlock {
  template <int W>
  AUTOMODELD_INLINE static void Run(const AttentionBlock<T>* block, float* memory) {
    const AttentionBlock<T>& b = *block;
    const int64_t dim = (b.head_dim + kMaxVectorFloats - 1) / kMaxVectorFloats * kMaxVectorFloats;
    AttentionScratch s(memory, b.tokens * b.group, dim);
    flash::LoadQueries<W>(b, dim, s);
    const int64_t end = flash::EndKey(b, b.first_position + b.tokens - 1);
    // From a multiple: a row's keys fall into the same blocks, and are added in the same order, in every step.
    const int64_t first = flash::FirstKey(b, b.first_position) / kKeysPerBlock * kKeysPerBlock;
    for (int64_t begin = first; begin < end; begin += kKeysPerBlock) {
      flash::AddKeys<W>(b, begin, end, dim, s);
    }
    flash::StoreResults<W>(b, dim, s);
  }
};

}  // namespace automodeld

#endif  // KERNELS_CPU_ATTENTION_BLOCK_H_
