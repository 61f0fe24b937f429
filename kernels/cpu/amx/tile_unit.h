// Tile registers (Intel AMX): the instructions. The emulator (tests/isa_emulator) has them in plain loops.
#pragma once

#include "kernels/cpu/simd.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kRowBytes = 64;  // of every tile

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

// c += a b in whole numbers: bytes by signed bytes, those of a being unsigned or signed
template <int c, int a, int b>
QINCO_INLINE void tile_product_unsigned() {
  __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}
template <int c, int a, int b>
QINCO_INLINE void tile_product_signed() {
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
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

QINCO_CPU_NAMESPACE_END
