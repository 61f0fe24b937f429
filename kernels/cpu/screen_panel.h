// The inner loop of the candidate search's screen: one panel of output features times one tile of candidates, in
// bytes.
//
// An activation is an unsigned byte, a weight a signed one. With VNNI, which adds four products to a sum of 32 bits,
// they use all bits. Without, an activation is at most 127 and a weight 63 in size: the sum of four products is at most
// 32,004, which 16 bits hold. So eight products a lane take five instructions, three of them multiplications, where
// float takes eight; with VNNI they take two.
#pragma once

#include "kernels/cpu/candidate_panel.h"
#include "kernels/cpu/vnni.h"

QINCO_CPU_NAMESPACE_BEGIN

// The most that an activation and a weight may be, and the byte that stands for 0 where activations have a sign.
struct ByteRange {
  int activation, weight, zero;
};
constexpr ByteRange kSevenBits{127, 63, 64}, kEightBits{255, 127, 128};
constexpr int64_t kMostEightBits = 65536;  // of an inner dimension, whose sums 32 bits hold

constexpr int64_t kFour = 4;                 // features side by side in a lane
constexpr int64_t kScreenInner = 2 * kFour;  // inner dimensions are padded to a multiple of this
#if defined(QINCO_CPU_avx512)
constexpr int kScreenRows = 8;
#else
constexpr int kScreenRows = 4;
#endif

// A panel's sums, in registers.
struct PanelSums {
  IntVec of[kScreenRows][kUnits];

  QINCO_INLINE PanelSums() {
#pragma GCC unroll 8
    for (int i = 0; i < kScreenRows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kUnits; ++v) of[i][v] = IntVec(0);
  }
  QINCO_INLINE void store_to(int32_t* sums) const {
#pragma GCC unroll 8
    for (int i = 0; i < kScreenRows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kUnits; ++v) store(sums + i * kTileWidth + v * kLanes, of[i][v]);
  }
};

// sums [kScreenRows][kTileWidth] = weights [inner/kFour][kScreenRows][kFour] times bytes [inner/kFour][kTileWidth]
// [kFour], inner being a multiple of kScreenInner.
using MultiplyBytes = void (*)(int64_t inner, const int8_t* weights, const uint8_t* bytes, int32_t* sums);

[[gnu::noinline]] void multiply_bytes(int64_t inner, const int8_t* weights, const uint8_t* bytes, int32_t* sums) {
  PanelSums sum;
  for (int64_t k = 0; k < inner; k += kScreenInner) {
    ByteVec first[kUnits], second[kUnits];
#pragma GCC unroll 2
    for (int v = 0; v < kUnits; ++v) {
      first[v] = load_bytes_aligned(bytes + v * kLanes * kFour);
      second[v] = load_bytes_aligned(bytes + (kTileWidth + v * kLanes) * kFour);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kScreenRows; ++i) {
      const ByteVec a = repeat_four(weights + i * kFour), b = repeat_four(weights + (kScreenRows + i) * kFour);
#pragma GCC unroll 2
      for (int v = 0; v < kUnits; ++v) sum.of[i][v] = sum.of[i][v] + dot_eight(first[v], a, second[v], b);
    }
    bytes += 2 * kTileWidth * kFour;
    weights += 2 * kScreenRows * kFour;
  }
  sum.store_to(sums);
}

// The same on machines that have VNNI.
[[gnu::noinline]] QINCO_VNNI_TARGET void multiply_bytes_vnni(int64_t inner, const int8_t* weights, const uint8_t* bytes,
                                                             int32_t* sums) {
  PanelSums sum;
  for (int64_t k = 0; k < inner; k += kFour) {
    ByteVec column[kUnits];
#pragma GCC unroll 2
    for (int v = 0; v < kUnits; ++v) column[v] = load_bytes_aligned(bytes + v * kLanes * kFour);
#pragma GCC unroll 8
    for (int i = 0; i < kScreenRows; ++i) {
      const ByteVec weight = repeat_four(weights + i * kFour);
#pragma GCC unroll 2
      for (int v = 0; v < kUnits; ++v)
        sum.of[i][v] = IntVec(QINCO_VNNI_DOT_BYTES(sum.of[i][v].v, column[v].v, weight.v));
    }
    bytes += kTileWidth * kFour;
    weights += kScreenRows * kFour;
  }
  sum.store_to(sums);
}

QINCO_CPU_NAMESPACE_END
