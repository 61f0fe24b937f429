// Random numbers by counter: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3",
// SC'11), and the values that the kernels make of its words. Shared by the CPU and CUDA, which give the same bits:
// there is nothing here but integers, exact conversions, and products and sums that are rounded one by one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/kernels.h"

namespace qinco::kernels::philox {

inline constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
inline constexpr uint32_t kKeyStep0 = 0x9E3779B9, kKeyStep1 = 0xBB67AE85;

struct Block {
  uint32_t word[4];
};

QINCO_HOST_DEVICE inline uint32_t low(uint64_t word) {
  return static_cast<uint32_t>(word);
}
QINCO_HOST_DEVICE inline uint32_t high(uint64_t word) {
  return static_cast<uint32_t>(word >> 32);
}
QINCO_HOST_DEVICE inline uint64_t joined(uint32_t low_word, uint32_t high_word) {
  return (uint64_t{high_word} << 32) | low_word;
}

/// The ten rounds.
QINCO_HOST_DEVICE inline Block encrypt(Block counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{kMultiplier0} * counter.word[0], p1 = uint64_t{kMultiplier1} * counter.word[2];
    counter = {{high(p1) ^ counter.word[1] ^ key0, low(p1), high(p0) ^ counter.word[3] ^ key1, low(p0)}};
    key0 += kKeyStep0;
    key1 += kKeyStep1;
  }
  return counter;
}

/// Block `index` of the stream of `state`, whatever its position.
QINCO_HOST_DEVICE inline Block block(const RandomState& state, uint64_t index) {
  return encrypt({{low(index), high(index), low(state.stream), high(state.stream)}}, low(state.seed), high(state.seed));
}

/// Uniform in [0,1) with the bits that T holds exactly: 24 of 32, or 53 of 64.
QINCO_HOST_DEVICE inline float unit(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}
QINCO_HOST_DEVICE inline double unit(uint64_t bits) {
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

/// Values of one block: four floats or two doubles.
template <class T>
inline constexpr int kValues = 16 / sizeof(T);

QINCO_HOST_DEVICE inline void units(const Block& from, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = unit(from.word[i]);
}
QINCO_HOST_DEVICE inline void units(const Block& from, double* out) {
  for (int i = 0; i < 2; ++i) out[i] = unit(joined(from.word[2 * i], from.word[2 * i + 1]));
}

/// Blocks that n values take: the rest of the last one is not used.
template <class T>
int64_t blocks_of(int64_t n) {
  return (n + kValues<T> - 1) / kValues<T>;
}

/// a * b, rounded: nvcc would fuse the plain product with the sum it goes into. A C++ compiler that has such an
/// instruction would, too, but for the flags of the files that call this (CMakeLists.txt).
QINCO_HOST_DEVICE inline float product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
QINCO_HOST_DEVICE inline double product(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

/// What `uniform` makes of a value in [0,1).
template <class T>
class Uniform {
 public:
  Uniform(double lo, double hi)
      : base_(static_cast<T>(lo)),
        width_(static_cast<T>(hi - lo)),
        top_(std::max(base_, std::nextafter(static_cast<T>(hi), base_))) {}
  QINCO_HOST_DEVICE T operator()(T u) const {
    const T value = base_ + product(width_, u);
    return top_ < value ? top_ : value;
  }

 private:
  T base_, width_;
  T top_;  // rounding may reach hi itself, which the interval excludes
};

/// What `dropout_mask` makes of a value in [0,1).
template <class T>
class DropoutMask {
 public:
  explicit DropoutMask(double p) : p_(static_cast<T>(p)), kept_(static_cast<T>(1 / (1 - p))) {}
  QINCO_HOST_DEVICE T operator()(T u) const { return u < p_ ? T(0) : kept_; }

 private:
  T p_, kept_;
};

}  // namespace qinco::kernels::philox
