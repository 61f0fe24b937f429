// Weights as B blocks, in two bfloat16 parts: w = first + second, to about 2^-17 of w.
#pragma once

#include "kernels/cpu/amx/tile.h"
#include "kernels/cpu/pack.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t blocks(int64_t n) {
  return blocks_of(n, kBlock);
}

// bfloat16 values in one part of a packed [rows,cols] matrix.
constexpr int64_t part_values(int64_t rows, int64_t cols) {
  return blocks(rows) * blocks(cols) * kPairValues;
}

// The float that a bfloat16 stands for, 16 at a time.
QINCO_INLINE Vec from_bf16(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

// What rounding (low, high) to bfloat16 left out, rounded likewise.
QINCO_INLINE __m512i rounding_rest(Vec low, Vec high, __m512i rounded) {
  return to_bf16(low - from_bf16(_mm512_castsi512_si256(rounded)),
                 high - from_bf16(_mm512_extracti64x4_epi64(rounded, 1)));
}

// Up to 32 floats from p, of which `left` >= 1 are there; the others are zero.
QINCO_INLINE void load_row(const float* p, int64_t left, Vec& low, Vec& high) {
  low = load_partial(p, left < kLanes ? left : kLanes);
  high = left <= kLanes ? Vec(0.0f) : load_partial(p + kLanes, left < kBlock ? left - kLanes : kLanes);
}

// Rows [row, row + 16) x values [col, col + 32) of w as one tile of each part: tile row r holds the values col + 2r and
// col + 2r + 1 of each of the 16 rows. Outside the matrix is zero. Without `second` there is only the first part.
inline void pack_tile(const float* w, int64_t ldw, int64_t rows, int64_t cols, int64_t row, int64_t col, Bf16* first,
                      Bf16* second) {
  Vec parts[2][16];
  for (int i = 0; i < 16; ++i) {
    Vec low(0.0f), high(0.0f);
    if (row + i < rows) load_row(w + (row + i) * ldw + col, cols - col, low, high);
    const __m512i rounded = to_bf16(low, high);
    parts[0][i] = _mm512_castsi512_ps(rounded);
    if (second) parts[1][i] = _mm512_castsi512_ps(rounding_rest(low, high, rounded));
  }
  transpose(parts[0]);
  for (int i = 0; i < 16; ++i) store(reinterpret_cast<float*>(first) + i * kLanes, parts[0][i]);
  if (!second) return;
  transpose(parts[1]);
  for (int i = 0; i < 16; ++i) store(reinterpret_cast<float*>(second) + i * kLanes, parts[1][i]);
}

// w [rows,cols], its rows ldw apart -> its parts, each [rows/32][cols/32] pairs of tiles, `first` and `second` of
// part_values each. A product with it is A w^T.
inline void pack_weights(const Context& context, const float* w, int64_t ldw, int64_t rows, int64_t cols, Bf16* first,
                         Bf16* second) {
  const int64_t steps = blocks(cols);
  parallel_for(context, blocks(rows), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t k = 0; k < steps; ++k) {
        for (int half = 0; half < 2; ++half) {
          const int64_t at = (n * steps + k) * kPairValues + half * kPairValues / 2;
          pack_tile(w, ldw, rows, cols, n * kBlock + half * 16, k * kBlock, first + at, second + at);
        }
      }
    }
  });
}

QINCO_CPU_NAMESPACE_END
