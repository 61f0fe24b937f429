// Tile registers (Intel AMX) and the one product that every AMX kernel is made of.
//
// A block is 32 rows by 32 columns of C = A B: four accumulator tiles, two tiles of A and two of B at a time. Operands
// are bfloat16, sums are float. In memory an A block is [inner/32] pairs of tiles of 16 rows x 32 values, a B block
// [inner/32] pairs of tiles of 16 columns, each column's values paired as the unit wants them, and a C block is four
// tiles of 16 x 16: (rows 0-15, columns 0-15), (0-15, 16-31), (16-31, 0-15), (16-31, 16-31).
#pragma once

#include "kernels/cpu/simd.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kBlock = 32;          // rows and columns of a block, and values of an inner step
constexpr int64_t kTileFloats = 256;    // of an accumulator tile
constexpr int64_t kBlockFloats = 1024;  // of a C block
constexpr int64_t kPairValues = 1024;   // bfloat16 values of a pair of operand tiles: one inner step
constexpr int64_t kRowBytes = 64;       // of every tile

using Bf16 = uint16_t;

// The compiler does not know the tile registers: the statements are volatile, which keeps their order, and those that
// touch memory clobber it.
template <int tile>
QINCO_INLINE void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(tile));
}
template <int tile>
QINCO_INLINE void tile_load(const void* p) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(kRowBytes), "i"(tile) : "memory");
}
template <int tile>
QINCO_INLINE void tile_store(void* p) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(kRowBytes), "i"(tile) : "memory");
}
// c += a b
template <int c, int a, int b>
QINCO_INLINE void tile_product() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}

// Tile registers, all of 16 rows of 64 bytes, for the calling thread and this scope.
class TileScope {
 public:
  TileScope() {
    struct alignas(64) {
      uint8_t palette = 1, first_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } const config;
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
  }
  ~TileScope() { __asm__ volatile("tilerelease"); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

QINCO_INLINE void load_accumulators(const float* c) {
  tile_load<0>(c);
  tile_load<1>(c + kTileFloats);
  tile_load<2>(c + 2 * kTileFloats);
  tile_load<3>(c + 3 * kTileFloats);
}
QINCO_INLINE void zero_accumulators() {
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
}
QINCO_INLINE void store_accumulators(float* c) {
  tile_store<0>(c);
  tile_store<1>(c + kTileFloats);
  tile_store<2>(c + 2 * kTileFloats);
  tile_store<3>(c + 3 * kTileFloats);
}

// The accumulators += one inner step of A and B.
QINCO_INLINE void multiply_step(const Bf16* a, const Bf16* b) {
  tile_load<6>(b);
  tile_load<4>(a);
  tile_product<0, 4, 6>();
  tile_load<7>(b + kPairValues / 2);
  tile_product<1, 4, 7>();
  tile_load<5>(a + kPairValues / 2);
  tile_product<2, 5, 6>();
  tile_product<3, 5, 7>();
}

// 32 floats -> bfloat16, to nearest even; denormals are zero.
QINCO_INLINE __m512i to_bf16(Vec low, Vec high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high.v, low.v));
}

// max(x, 0) of 32 bfloat16 values: their order is that of signed integers.
QINCO_INLINE __m512i relu_bf16(__m512i x) {
  return _mm512_max_epi16(x, _mm512_setzero_si512());
}

QINCO_CPU_NAMESPACE_END
