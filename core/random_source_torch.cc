#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "core/weight_sources_torch.h"
#include "kernels/philox.h"

namespace automodeld {

namespace {

constexpr int64_t kDrawn = 4 << 20;  // numbers at a time; a multiple of 4

// FNV-1a, so that a name's numbers never change with a library.
uint64_t HashOf(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

// In (0, 1): the middle of one of 2^24 intervals.
float Uniform(uint32_t word) { return (static_cast<float>(word >> 8) + 0.5F) * 0x1p-24F; }

// Two normal numbers, by Box and Muller.
std::pair<float, float> Normals(uint32_t a, uint32_t b) {
  const float radius = std::sqrt(-2.0F * std::log(Uniform(a)));
  const float angle = 2.0F * std::numbers::pi_v<float> * Uniform(b);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

// out[4i .. 4i+3] comes from the counter first_counter + i.
void DrawNormals(uint64_t seed, uint64_t stream, int64_t first_counter, float range, float* out, int64_t numel) {
  at::parallel_for(0, (numel + 3) / 4, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const PhiloxWords words = Philox(seed, static_cast<uint64_t>(first_counter + i), stream);
      const auto [a, b] = Normals(words.x, words.y);
      const auto [c, d] = Normals(words.z, words.w);
      const float four[] = {a, b, c, d};
      for (int64_t j = 0; j < std::min<int64_t>(4, numel - 4 * i); ++j) out[4 * i + j] = range * four[j];
    }
  });
}

}  // namespace

void RandomSource::Fail(const std::string& error) {
  if (status_.ok()) status_ = absl::InternalError(error);
}

void RandomSource::Read(const std::string& name, at::Tensor out) {
  if (status_.ok()) status_ = meter_->Check();
  if (!status_.ok()) return;
  if (name.ends_with("bias") || out.dim() < 2) {
    out.fill_(name.ends_with("bias") ? 0 : 1);
    return meter_->Advance(static_cast<int64_t>(out.nbytes()));
  }
  const at::Tensor flat = out.view(-1);
  for (int64_t first = 0; first < flat.numel() && status_.ok(); first += kDrawn) {
    Draw(name, first, flat.narrow(0, first, std::min(kDrawn, flat.numel() - first)));
    status_ = meter_->Check();
  }
}

void RandomSource::Draw(const std::string& name, int64_t first, const at::Tensor& out) {
  const bool direct = out.is_cpu() && out.scalar_type() == at::kFloat;
  const at::Tensor drawn = direct ? out : at::empty(out.sizes(), at::kFloat);
  DrawNormals(seed_, HashOf(name), first / 4, static_cast<float>(range_), drawn.mutable_data_ptr<float>(),
              drawn.numel());
  if (!direct) {
    out.copy_(drawn);
    extra_bytes_ = std::max(extra_bytes_, static_cast<int64_t>(drawn.nbytes()));
  }
  meter_->Advance(static_cast<int64_t>(out.nbytes()));
}

}  // namespace automodeld
