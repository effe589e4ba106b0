// Philox4x32-10, the counter-based random generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy
// as 1, 2, 3" (SC 2011): four 32-bit words as a pure function of (key, counter), so that a draw depends on nothing that
// was drawn before. Written once, for host and device.
//
//   PhiloxWords words = Philox(seed, position);  // key = seed, counter = (position, 0)
//   double u = UniformDouble(words);             // [0, 1), 53 bits
#ifndef KERNELS_PHILOX_H_
#define KERNELS_PHILOX_H_

#include <cstdint>

#if defined(__CUDACC__)
#define AUTOMODELD_HOST_DEVICE __host__ __device__
#else
#define AUTOMODELD_HOST_DEVICE
#endif

namespace automodeld {

struct PhiloxWords {
  uint32_t x, y, z, w;
};

inline constexpr uint32_t kPhiloxMultiplierX = 0xD2511F53, kPhiloxMultiplierZ = 0xCD9E8D57;
inline constexpr uint32_t kPhiloxWeylX = 0x9E3779B9, kPhiloxWeylY = 0xBB67AE85;
inline constexpr int kPhiloxRounds = 10;

AUTOMODELD_HOST_DEVICE inline PhiloxWords PhiloxRound(PhiloxWords c, uint32_t key_x, uint32_t key_y) {
  const uint64_t product_x = uint64_t{kPhiloxMultiplierX} * c.x;
  const uint64_t product_z = uint64_t{kPhiloxMultiplierZ} * c.z;
  return {static_cast<uint32_t>(product_z >> 32) ^ c.y ^ key_x, static_cast<uint32_t>(product_z),
          static_cast<uint32_t>(product_x >> 32) ^ c.w ^ key_y, static_cast<uint32_t>(product_x)};
}

// The counter's words are (low, high) of `counter` and of `counter_high`.
AUTOMODELD_HOST_DEVICE inline PhiloxWords Philox(uint64_t key, uint64_t counter, uint64_t counter_high = 0) {
  PhiloxWords c = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                   static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  uint32_t key_x = static_cast<uint32_t>(key), key_y = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    c = PhiloxRound(c, key_x, key_y);
    key_x += kPhiloxWeylX;
    key_y += kPhiloxWeylY;
  }
  return c;
}

// The upper 53 bits of (y, x) as a fraction.
AUTOMODELD_HOST_DEVICE inline double UniformDouble(PhiloxWords words) {
  const uint64_t bits = (uint64_t{words.y} << 32 | words.x) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace automodeld

#endif  // KERNELS_PHILOX_H_
