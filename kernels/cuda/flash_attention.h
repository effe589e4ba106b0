// What the CUDA kernels of flash_attention_2 are given, and their launchers; no libtorch in here.
//
// Query rows are packed: the heads of a group (those that share a key head) follow one another within a token, so that
// packed row r of a sequence is token r / group, head r % group of the group, and every packed row of a sequence reads
// the same keys. A block of threads takes a tile of packed rows (FlashRows) of one sequence and one key head.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_H_
#define KERNELS_CUDA_FLASH_ATTENTION_H_

#include <cstdint>

namespace automodeld {

// A sequence as kernels read it from the plan.
struct alignas(16) FlashSequence {
  int32_t first_row = 0, num_rows = 0, context = 0;
  int32_t first_page = 0;  // in the plan's pages; -1: ragged, its keys are rows of k and v
};

struct alignas(8) FlashItem {
  int32_t sequence = 0;
  int32_t first = 0;  // packed row
};

// kDecode, kDecodeMany: a tile of 16 packed rows, whose keys are split over a block's four or two warps, and for
// kDecode over blocks. kSmall, kLarge: tiles of 32 rows and of FlashRows(kLarge, dim), of an item list.
enum class FlashKind { kDecode, kDecodeMany, kSmall, kLarge };

constexpr int64_t FlashRows(FlashKind kind, int64_t instance_dim) {
  if (kind == FlashKind::kLarge) return instance_dim <= 128 ? 128 : 64;
  return kind == FlashKind::kSmall ? 32 : 16;
}

// How an element of keys and values is held.
enum class FlashElement : int32_t { kFloat, kHalf, kBFloat16, kE4m3 };

// How keys and values come into products. kSame: they are of q's type. kBytes: e4m3, made float16 in registers, and so
// are the queries, of 16 bits. kOther: of any type, anywhere; read one by one and made q's type, which is slow. The
// others lie on borders of 16 bytes.
enum class FlashHeld { kSame, kBytes, kOther };

// Keys and values; strides in elements, a head's elements are dense and heads follow one another.
struct FlashSource {
  const void *keys = nullptr, *values = nullptr;
  int64_t page_stride = 0, token_stride = 0;
};

// What decode reads where q is rows of q, k and v before norm and rotation, as qkv_rope_write_kv is given them.
struct FlashRaw {
  const void *q_norm = nullptr, *k_norm = nullptr;  // [head_dim] of q's type, or null
  const float* cos_sin = nullptr;                   // [positions, 2, half]; null: no rotation
  const int64_t* positions = nullptr;               // [tokens]; null without cos_sin
  const int64_t* slots = nullptr;                   // [tokens]; null: q is queries, and no more than that
  void *keys = nullptr, *values = nullptr;          // FlashSource's, to write to
  float k_write_scale = 1.0f, v_write_scale = 1.0f;
  float eps = 0.0f;
  int32_t half = 0;
};

struct FlashArgs {
  // [tokens, heads, head_dim], dense but for the first dimension; raw: [tokens, heads + 2 kv_heads, head_dim]
  const void* q = nullptr;
  int64_t q_stride = 0;
  FlashRaw raw;
  void* out = nullptr;  // [tokens, heads * head_dim], of q's type
  // Where splits > cluster: sums over the keys of each cluster, [items, kv_heads, splits / cluster, rows of a tile,
  // head_dim + 4] float32: of weighted values, then the largest score in units of log 2 and the sum of weights.
  float* parts = nullptr;
  int32_t* tickets = nullptr;  // [items, kv_heads], zeros before and after: how many blocks have written of theirs
  FlashSource source;
  const FlashSequence* sequences = nullptr;
  const FlashItem* items = nullptr;  // null for decode: tile by tile of one sequence after the other
  const int32_t* pages = nullptr;  // null: the source's pages are those of the plan, in their order, from first_page on
  int32_t first_page = 0;
  const float* sinks = nullptr;  // [heads], or null
  int32_t num_items = 0;
  int32_t splits = 1;   // kDecode: so many blocks share the keys of an item and key head
  int32_t cluster = 1;  // of which so many, a divisor, run as a cluster
  int32_t heads = 0, kv_heads = 0, group = 0, head_dim = 0;
  int32_t page_blocks = 1;  // page size / 16
  int32_t fresh_keys = 1;   // decode: so many keys at the end of a sequence may be this step's own
  int32_t window = 0;       // 0: none
  bool causal = true;
  FlashElement element = FlashElement::kBFloat16;  // of keys and values
  float score_factor = 1.0f;                       // scores in units of log 2 per product; with a cap: of its tanh
  float cap_factor = 0.0f;                         // what goes into the tanh per product; 0: no cap
  float result_factor = 1.0f;
};

// `args` on the current stream, by the kernel for queries of `type`, which is not kE4m3, and heads of up to Dim, padded
// with zeros: Dim is one of 32, 64, 80, 96, 128, 256.
template <int Dim>
void LaunchFlash(FlashKind kind, FlashElement type, FlashHeld held, const FlashArgs& args);

inline constexpr int kMaxFlashSplits = 64, kMaxFlashCluster = 4;

// Whether this build has code of that kernel for the current device.
template <int Dim>
bool HasFlashCode();

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_H_
