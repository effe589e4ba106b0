#include "core/layers/rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace automodeld {

namespace {

constexpr double kHuge = 1e12;

double YarnScale(double scale, double mscale) { return scale <= 1.0 ? 1.0 : 0.1 * mscale * std::log(scale) + 1.0; }

void ReadYarn(ConfigReader& read, RopeConfig& rope) {
  rope.beta_fast = read.Double("beta_fast", 32.0, 1e-6, kHuge);
  rope.beta_slow = read.Double("beta_slow", 1.0, 1e-6, kHuge);
  rope.truncate = read.Bool("truncate", true);
  const double mscale = read.Double("mscale", 0.0, 0.0, kHuge);
  const double mscale_all_dim = read.Double("mscale_all_dim", 0.0, 0.0, kHuge);
  const double inferred = mscale > 0 && mscale_all_dim > 0
                              ? YarnScale(rope.factor, mscale) / YarnScale(rope.factor, mscale_all_dim)
                              : YarnScale(rope.factor, 1.0);
  rope.attention_factor = read.Double("attention_factor", inferred, 1e-6, kHuge);
}

at::Tensor BaseFrequencies(const RopeConfig& rope) {
  const at::Tensor exponent = at::arange(0, rope.rotary_dim, 2, at::kLong).to(at::kFloat) / rope.rotary_dim;
  return at::pow(at::Scalar(rope.theta), exponent);
}

at::Tensor Llama3Frequencies(const RopeConfig& rope, const at::Tensor& inverse) {
  const auto length = static_cast<double>(rope.original_max_positions);
  const at::Tensor wavelength = 2 * std::numbers::pi / inverse;
  const at::Tensor is_low = wavelength > length / rope.low_freq_factor;
  const at::Tensor is_high = wavelength < length / rope.high_freq_factor;
  const at::Tensor scaled = at::where(is_low, inverse / rope.factor, inverse);
  const at::Tensor smooth =
      (length / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  const at::Tensor blended = (1 - smooth) * scaled / rope.factor + smooth * scaled;
  return at::where(is_low.logical_or(is_high), scaled, blended);
}

// The dimension whose wavelength fits `rotations` times into the original length.
double YarnDimension(const RopeConfig& rope, double rotations) {
  const double wavelength = static_cast<double>(rope.original_max_positions) / (rotations * 2 * std::numbers::pi);
  return static_cast<double>(rope.rotary_dim) * std::log(wavelength) / (2 * std::log(rope.theta));
}

at::Tensor YarnFrequencies(const RopeConfig& rope, const at::Tensor& inverse) {
  double low = YarnDimension(rope, rope.beta_fast);
  double high = YarnDimension(rope, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rope.rotary_dim - 1));
  if (low == high) high += 0.001;
  const at::Tensor ramp = ((at::arange(rope.rotary_dim / 2, at::kFloat) - low) / (high - low)).clamp(0, 1);
  return inverse / rope.factor * ramp + inverse * (1 - ramp);
}

at::Tensor InverseFrequencies(const RopeConfig& rope) {
  const at::Tensor inverse = 1.0 / BaseFrequencies(rope);
  if (rope.type == "linear") return inverse / rope.factor;
  if (rope.type == "llama3") return Llama3Frequencies(rope, inverse);
  if (rope.type == "yarn") return YarnFrequencies(rope, inverse);
  return inverse;
}

void ReadScaling(ConfigReader& read, const ConfigReader& top, RopeConfig& rope) {
  rope.type = read.String("rope_type", read.String("type", "default"));
  if (rope.type == "default") return;
  if (rope.type != "linear" && rope.type != "llama3" && rope.type != "yarn" && rope.type != "dynamic") {
    read.Fail("rope_type", fmt::format("\"{}\" is not one of default, linear, dynamic, llama3, yarn", rope.type));
    return;
  }
  rope.low_freq_factor = read.Double("low_freq_factor", 1.0, 1e-6, kHuge);
  rope.high_freq_factor = read.Double("high_freq_factor", 4.0, 1e-6, kHuge);
  rope.original_max_positions = read.Int("original_max_position_embeddings", rope.max_positions, 1, 1 << 30);
  if (top.Has("original_max_position_embeddings")) {
    rope.original_max_positions = ConfigReader(top).Int("original_max_position_embeddings", 1, 1, 1 << 30);
  }
  const double stretch = static_cast<double>(rope.max_positions) / static_cast<double>(rope.original_max_positions);
  rope.factor = read.Double("factor", rope.type == "yarn" ? stretch : 1.0, 1e-6, kHuge);
  if (rope.type == "yarn") ReadYarn(read, rope);
  if (rope.type == "llama3" && rope.high_freq_factor <= rope.low_freq_factor) {
    read.Fail("high_freq_factor",
              fmt::format("{} is not above low_freq_factor {}", rope.high_freq_factor, rope.low_freq_factor));
  }
}

}  // namespace

RopeConfig ReadRope(ConfigReader& read, int64_t head_dim, int64_t max_positions) {
  RopeConfig rope;
  rope.max_positions = max_positions;
  rope.original_max_positions = max_positions;
  rope.rotary_dim = head_dim;
  rope.theta = read.Double("rope_theta", 10000.0, 1e-3, kHuge);
  ConfigReader scaling(read, "rope_scaling");  // where it says anything, transformers reads nothing of the other
  ConfigReader nested = scaling.empty() ? ConfigReader(read, "rope_parameters") : scaling;
  ReadScaling(nested, read, rope);
  rope.theta = nested.Double("rope_theta", rope.theta, 1e-3, kHuge);
  for (ConfigReader* place : {&read, &nested}) place->Double("partial_rotary_factor", 1.0, 1.0, 1.0);
  if (rope.type == "yarn" && rope.theta <= 1.0) {
    read.Fail("rope_theta", fmt::format("{} is not above 1, as yarn needs", rope.theta));
  }
  return rope;
}

at::Tensor RopeTable(const RopeConfig& rope, at::Device device) {
  if (device.is_meta()) return at::empty({rope.max_positions, 2, rope.rotary_dim / 2}, at::device(device));  // a plan
  const at::Tensor positions = at::arange(rope.max_positions, at::kLong).to(at::kFloat);
  const at::Tensor angles = at::outer(positions, InverseFrequencies(rope));
  return (at::stack({angles.cos(), angles.sin()}, 1) * rope.attention_factor).to(device);
}

}  // namespace automodeld
