// The one product that every AMX kernel is made of.
//
// A block is 32 rows by 32 columns of C = A B: four accumulator tiles, two tiles of A and two of B at a time. Operands
// are bfloat16, sums are float. In memory an A block is [inner/32] pairs of tiles of 16 rows x 32 values, a B block
// [inner/32] pairs of tiles of 16 columns, each column's values paired as the unit wants them, and a C block is four
// tiles of 16 x 16: (rows 0-15, columns 0-15), (0-15, 16-31), (16-31, 0-15), (16-31, 16-31). Or operands are bytes, 64
// in the place of 32 values and four together where bfloat16 is paired, and sums int32 (byte_screen.h).
#pragma once

#include "kernels/cpu/amx/tile_unit.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kBlock = 32;  // rows and columns of a block, and values of an inner step
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kTileFloats = 256;    // of an accumulator tile
constexpr int64_t kBlockFloats = 1024;  // of a C block
constexpr int64_t kPairValues = 1024;   // bfloat16 values of a pair of operand tiles: one inner step

using Bf16 = uint16_t;

// What the values of A are; those of B are bfloat16, or signed bytes.
enum class Operands : uint8_t { bf16, unsigned_bytes, signed_bytes };

template <Operands of, int c, int a, int b>
QINCO_INLINE void product_of() {
  if constexpr (of == Operands::bf16)
    tile_product<c, a, b>();
  else if constexpr (of == Operands::unsigned_bytes)
    tile_product_unsigned<c, a, b>();
  else
    tile_product_signed<c, a, b>();
}

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
template <class Sum>  // float or int32_t
QINCO_INLINE void store_accumulators(Sum* c) {
  tile_store<0>(c);
  tile_store<1>(c + kTileFloats);
  tile_store<2>(c + 2 * kTileFloats);
  tile_store<3>(c + 3 * kTileFloats);
}

// The accumulators += one inner step of A and B.
template <Operands of = Operands::bf16, class Value>  // Bf16 or uint8_t
QINCO_INLINE void multiply_step(const Value* a, const Value* b) {
  constexpr int64_t other = kTileBytes / static_cast<int64_t>(sizeof(Value));
  tile_load<6>(b);
  tile_load<4>(a);
  product_of<of, 0, 4, 6>();
  tile_load<7>(b + other);
  product_of<of, 1, 4, 7>();
  tile_load<5>(a + other);
  product_of<of, 2, 5, 6>();
  product_of<of, 3, 5, 7>();
}

// 32 floats -> bfloat16, to nearest even; denormals are zero.
QINCO_INLINE __m512i to_bf16(Vec low, Vec high) {
  return __builtin_bit_cast(__m512i, _mm512_cvtne2ps_pbh(high.v, low.v));
}

// max(x, 0) of 32 bfloat16 values: their order is that of signed integers. A NaN with a sign becomes 0, as no other
// relu does: what comes of it is compared again in float, or is a NaN there.
QINCO_INLINE __m512i relu_bf16(__m512i x) {
  return _mm512_max_epi16(x, _mm512_setzero_si512());
}

QINCO_CPU_NAMESPACE_END
