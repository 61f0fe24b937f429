// kernels/cpu/amx/tile_unit.h for the emulator: eight tiles of 16 rows of 64 bytes, in memory. Using them outside a
// TileScope traps, as on the processor.
#pragma once

#include "kernels/cpu/simd.h"

QINCO_CPU_NAMESPACE_BEGIN

struct Tiles {
  alignas(64) uint32_t of[8][16][16];
  bool there = false;
};

inline Tiles& tiles() {
  static thread_local Tiles all;
  return all;
}
inline uint32_t (&tile(int i))[16][16] {
  if (!tiles().there) __builtin_trap();
  return tiles().of[i];
}

template <int i>
void tile_zero() {
  std::memset(tile(i), 0, sizeof tile(i));
}
template <int i>
void tile_load(const void* p) {
  std::memcpy(tile(i), p, sizeof tile(i));
}
template <int i>
void tile_store(void* p) {
  std::memcpy(p, tile(i), sizeof tile(i));
}

// c += a b as the processor does it: even and odd values summed apart, denormals being zero.
inline void multiply_tiles(uint32_t (&c)[16][16], const uint32_t (&a)[16][16], const uint32_t (&b)[16][16]) {
  constexpr unsigned kFlushDenormals = 0x8040;
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | kFlushDenormals);
  alignas(64) float even[16][16], odd[16][16];
  for (int k = 0; k < 16; ++k) {
    const __m512i pairs = _mm512_loadu_si512(b[k]);
    _mm512_storeu_si512(even[k], _mm512_slli_epi32(pairs, 16));
    _mm512_storeu_si512(odd[k], _mm512_and_si512(pairs, _mm512_set1_epi32(INT32_MIN >> 15)));
  }
  for (int row = 0; row < 16; ++row) {
    Vec evens(0.0f), odds(0.0f);
    for (int k = 0; k < 16; ++k) {
      const Vec first = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(a[row][k] << 16)));
      const Vec second = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(a[row][k] & 0xffff0000)));
      evens = fma(first, load(even[k]), evens);
      odds = fma(second, load(odd[k]), odds);
    }
    float sums[16];
    std::memcpy(sums, c[row], sizeof sums);
    store(sums, load(sums) + (evens + odds));
    std::memcpy(c[row], sums, sizeof sums);
  }
  _mm_setcsr(before);
}
template <int c, int a, int b>
void tile_product() {
  multiply_tiles(tile(c), tile(a), tile(b));
}

// c += a b in whole numbers, which wrap: the bytes of b are signed, those of a as A is.
template <class A>
void multiply_byte_tiles(uint32_t (&c)[16][16], const uint32_t (&a)[16][16], const uint32_t (&b)[16][16]) {
  A left[16][16][4];
  std::memcpy(left, a, sizeof left);
  const auto both = [](int low, int high) { return _mm256_set1_epi32((low & 0xffff) | high << 16); };
  for (int row = 0; row < 16; ++row)
    for (int half = 0; half < 16; half += 8) {
      __m256i* const place = reinterpret_cast<__m256i*>(&c[row][half]);
      __m256i sum = _mm256_loadu_si256(place);
      for (int k = 0; k < 16; ++k) {
        const __m256i fours = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(&b[k][half]));
        const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(fours, 8), 8), odd = _mm256_srai_epi16(fours, 8);
        const A(&x)[4] = left[row][k];
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(both(x[0], x[2]), even));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(both(x[1], x[3]), odd));
      }
      _mm256_storeu_si256(place, sum);
    }
}
template <int c, int a, int b>
void tile_product_unsigned() {
  multiply_byte_tiles<uint8_t>(tile(c), tile(a), tile(b));
}
template <int c, int a, int b>
void tile_product_signed() {
  multiply_byte_tiles<int8_t>(tile(c), tile(a), tile(b));
}

class TileScope {
 public:
  TileScope() {
    if (tiles().there) __builtin_trap();
    tiles() = {};
    tiles().there = true;
  }
  ~TileScope() { tiles().there = false; }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

QINCO_CPU_NAMESPACE_END
