#include "kernels/op_samples.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace automodeld {
namespace {

// Of a model's samples: no real vocabulary or layer is wider, nor are all heads of one together.
constexpr int64_t kWidest = 1 << 18, kWidestHeads = 1 << 16;

enum class Layout { kDense, kStrided, kMisaligned };

struct MatrixCase {
  int64_t rows, width;
  Layout layout = Layout::kDense;
};

const std::vector<MatrixCase> kMatrices = {{1, 64},
                                           {0, 64},
                                           {64, 256},
                                           {3, 1},
                                           {5, 129},
                                           {2, 4099},
                                           {7, 384, Layout::kStrided},
                                           {7, 33, Layout::kStrided},
                                           {4, 1024, Layout::kMisaligned},
                                           {3, 77, Layout::kMisaligned},
                                           {96, 1024},
                                           {3, 4096},
                                           {2, 16384},
                                           {1, 16392},
                                           {130, 4104}};

std::string Name(const MatrixCase& c) {
  const char* layout = c.layout == Layout::kDense ? "" : c.layout == Layout::kStrided ? ", rows apart" : ", misaligned";
  return fmt::format("{} x {}{}", c.rows, c.width, layout);
}

at::Tensor Make(SampleTensors& make, const MatrixCase& c, int64_t columns_per_width = 1) {
  const std::vector<int64_t> sizes = {c.rows, columns_per_width * c.width};
  if (c.layout == Layout::kStrided) return make.Strided(sizes);
  return c.layout == Layout::kMisaligned ? make.Misaligned(sizes) : make.Normal(sizes);
}

struct EmbedCase {
  int64_t tokens, vocab, width;
  double scale = 1.0;
  bool drawn = true;  // some ids are negative
  Layout layout = Layout::kDense;
};

Sample EmbedSample(const EmbedCase& c) {
  const auto run = [c](const Ops& ops, SampleTensors& make) -> SampleResult {
    const at::Tensor weight = Make(make, {c.vocab, c.width, c.layout});
    constexpr int64_t kSlots = 5;
    const at::Tensor ids = make.Integers({c.tokens}, c.vocab);
    if (!c.drawn) return {ops.embed_tokens(ids, std::nullopt, weight, c.scale)};
    const at::Tensor slots = at::arange(c.tokens, at::kLong).remainder(kSlots + 2);  // the last two stand for ids
    const at::Tensor mixed = at::where(slots < kSlots, -1 - slots, ids.cpu()).to(ids.device());
    return {ops.embed_tokens(mixed, make.Integers({kSlots}, c.vocab), weight, c.scale)};
  };
  const std::string weight = Name({c.vocab, c.width, c.layout});
  return {fmt::format("{} of {}, times {}{}", c.tokens, weight, c.scale, c.drawn ? ", drawn" : ""),
          2 * c.tokens * c.width, run};
}

SampleResult Results(const NormResult& result) {
  return {std::get<0>(result), std::get<1>(result), std::get<2>(result)};
}

Sample NormSample(const MatrixCase& c, bool residual, bool layer_norm) {
  const auto run = [c, residual, layer_norm](const Ops& ops, SampleTensors& make) {
    const at::Tensor x = Make(make, c);
    std::optional<at::Tensor> other;
    if (residual) other = Make(make, c);
    const at::Tensor weight = make.Normal({c.width}), bias = make.Normal({c.width});
    return layer_norm ? Results(ops.layer_norm(x, other, weight, bias, 1e-12, false))
                      : Results(ops.rms_norm(x, other, weight, 1e-6, false));
  };
  return {Name(c) + (residual ? " and a residual" : ""), c.rows * c.width * (residual ? 4 : 2), run};
}

std::vector<Sample> NormSamples(bool layer_norm) {
  std::vector<Sample> samples;
  for (const MatrixCase& c : kMatrices) {
    samples.push_back(NormSample(c, false, layer_norm));
    samples.push_back(NormSample(c, true, layer_norm));
  }
  return samples;
}

Sample ActMulSample(const MatrixCase& c, const std::string& activation) {
  const auto run = [c, activation](const Ops& ops, SampleTensors& make) -> SampleResult {
    const auto [y, scale] = ops.act_mul(Make(make, c, 2), activation, false);
    return {y, scale};
  };
  return {activation + " " + Name(c), 3 * c.rows * c.width, run};
}

struct QkvCase {
  int64_t tokens, heads, kv_heads, head_dim, rotary_dim;
  bool norm = false, cache = true;
  Layout layout = Layout::kDense;
};

SampleResult RunQkv(const QkvCase& c, const Ops& ops, SampleTensors& make) {
  constexpr int64_t kPositions = 40, kPages = 9, kPageSize = 8, kLayers = 2;
  const at::Tensor qkv = Make(make, {c.tokens, (c.heads + 2 * c.kv_heads) * c.head_dim, c.layout});
  std::optional<at::Tensor> q_norm, k_norm, cos_sin, keys, values, slots;
  if (c.norm) {
    q_norm = make.Normal({c.head_dim});
    k_norm = make.Normal({c.head_dim});
  }
  if (c.rotary_dim > 0) cos_sin = make.Float({kPositions, 2, c.rotary_dim / 2});
  const at::Tensor positions = make.Integers({c.tokens}, kPositions);
  if (!c.cache) {
    const auto [q, k, v] = ops.qkv_rope_write_kv(qkv, c.heads, c.kv_heads, q_norm, k_norm, 1e-6, cos_sin, positions,
                                                 keys, values, slots, 1.0, 1.0);
    return {q, k, v};
  }
  const at::Tensor cache = make.Filled({kPages, kLayers, 2, kPageSize, c.kv_heads, c.head_dim}, 7.0);
  keys = cache.select(1, 1).select(1, 0);
  values = cache.select(1, 1).select(1, 1);
  slots = make.Permutation(c.tokens, kPages * kPageSize);
  const auto [q, k, v] = ops.qkv_rope_write_kv(qkv, c.heads, c.kv_heads, q_norm, k_norm, 1e-6, cos_sin, positions, keys,
                                               values, slots, 1.0, 1.0);
  return {q, k, v, cache};
}

Sample QkvSample(const QkvCase& c) {
  const std::string name = fmt::format("{} tokens, {}/{} heads of {}, {} rotated{}{}{}", c.tokens, c.heads, c.kv_heads,
                                       c.head_dim, c.rotary_dim, c.norm ? ", norm" : "", c.cache ? ", cache" : "",
                                       c.layout == Layout::kDense ? "" : ", odd layout");
  const int64_t elements = c.tokens * c.head_dim * (2 * c.heads + (c.cache ? 5 : 3) * c.kv_heads);
  return {name, elements, [c](const Ops& ops, SampleTensors& make) { return RunQkv(c, ops, make); }};
}

// As decoders call it, with and without a norm of queries and keys, and as encoders do.
std::vector<Sample> ModelQkvSamples(const OpDims& dims) {
  const int64_t group = std::max<int64_t>(dims.num_heads / dims.num_kv_heads, 1);
  const int64_t per_kv_head = std::max<int64_t>(group * dims.head_dim, 1);
  const int64_t kv_heads = std::clamp<int64_t>(kWidestHeads / per_kv_head, 1, dims.num_kv_heads);
  const int64_t heads = kv_heads * group, rotary_dim = dims.head_dim / 2 * 2;
  return {QkvSample({3, heads, kv_heads, dims.head_dim, rotary_dim}),
          QkvSample({3, heads, kv_heads, dims.head_dim, rotary_dim, /*norm=*/true}),
          QkvSample({3, heads, kv_heads, dims.head_dim, 0, /*norm=*/false, /*cache=*/false})};
}

}  // namespace

std::vector<Sample> EmbedTokensSamples() {
  return {EmbedSample({1, 7, 1}),
          EmbedSample({0, 7, 64}),
          EmbedSample({64, 1000, 4096}),
          EmbedSample({9, 100, 2048, 45.2548}),
          EmbedSample({33, 50, 129, 0.3}),
          EmbedSample({300, 97, 4104, 64.0, /*drawn=*/false}),
          EmbedSample({5, 40, 5001, 1.0, /*drawn=*/false}),
          EmbedSample({7, 40, 1024, 11.3, /*drawn=*/true, Layout::kMisaligned}),
          EmbedSample({7, 40, 1024, 1.0, /*drawn=*/true, Layout::kMisaligned}),
          EmbedSample({7, 40, 33, 1.0, /*drawn=*/true, Layout::kStrided})};
}

std::vector<Sample> RmsNormSamples() { return NormSamples(/*layer_norm=*/false); }

std::vector<Sample> LayerNormSamples() { return NormSamples(/*layer_norm=*/true); }

std::vector<Sample> ActMulSamples() {
  std::vector<Sample> samples;
  for (const std::string activation : {"silu", "gelu", "gelu_tanh"}) {
    for (const MatrixCase& c : kMatrices) samples.push_back(ActMulSample(c, activation));
  }
  return samples;
}

std::vector<Sample> QkvRopeWriteKvSamples() {
  const std::vector<QkvCase> cases = {{1, 4, 2, 64, 64},
                                      {0, 4, 2, 64, 64},
                                      {33, 6, 6, 32, 32},
                                      {17, 7, 1, 128, 128, /*norm=*/true},
                                      {5, 4, 4, 80, 32},  // a part is rotated
                                      {5, 4, 4, 80, 32, /*norm=*/true},
                                      {6, 3, 1, 34, 34},                 // an odd half
                                      {9, 12, 12, 32, 0, false, false},  // an encoder: a plain split
                                      {9, 4, 2, 32, 32, false, false},   // no cache
                                      {9, 4, 2, 32, 0, true, true},      // norm without rotation
                                      {9, 4, 2, 32, 0, false, true},     // cache only
                                      {11, 4, 2, 64, 64, true, true, Layout::kStrided},
                                      {11, 4, 2, 64, 64, false, true, Layout::kMisaligned},
                                      {64, 16, 8, 128, 128, true},
                                      {3, 4, 1, 256, 256, true},
                                      {7, 5, 1, 96, 96, true},
                                      {4, 6, 2, 80, 40},        // halves of 20
                                      {3, 2, 1, 33, 16, true},  // an odd head
                                      {3, 2, 1, 255, 128, true},
                                      {2, 2, 1, 300, 300, true},
                                      {2, 2, 2, 512, 64, true},
                                      {70, 32, 8, 128, 128}};
  std::vector<Sample> samples;
  std::ranges::transform(cases, std::back_inserter(samples), QkvSample);
  return samples;
}

std::vector<Sample> ModelSamples(const std::string& op, const OpDims& dims) {
  if (op == "embed_tokens") {
    const int64_t width = std::min(dims.hidden_size, kWidest);
    return {EmbedSample({3, 5, width}), EmbedSample({8, 5, width, 45.2548})};
  }
  if (op == "rms_norm" || op == "layer_norm") {
    const MatrixCase rows{3, std::min(dims.hidden_size, kWidest)};
    return {NormSample(rows, false, op == "layer_norm"), NormSample(rows, true, op == "layer_norm")};
  }
  if (op == "act_mul") {
    const MatrixCase rows{2, std::min(dims.intermediate_size, kWidest)};
    return {ActMulSample(rows, "silu"), ActMulSample(rows, "gelu"), ActMulSample(rows, "gelu_tanh")};
  }
  if (op == "qkv_rope_write_kv") return ModelQkvSamples(dims);
  if (op == "pool_rows") return ModelPoolRowsSamples(std::min(dims.hidden_size, kWidest));
  return ModelSamplingSamples(op, std::min(dims.vocab_size, kWidest));
}

}  // namespace automodeld
