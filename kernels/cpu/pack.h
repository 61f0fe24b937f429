// Packing: operands copied into the order in which the register tile reads them. Only what is used several times or
// would be read across the grain is packed: B for more than one row of tiles (or of rows that alias), A
// only when it is transposed.
#pragma once

#include "kernels/cpu/microkernel.h"

QINCO_CPU_NAMESPACE_BEGIN

#if defined(QINCO_CPU_avx512)
/// Transposes the kLanes x kLanes block held by rows of `x`.
QINCO_INLINE void transpose(Vec (&x)[kLanes]) {
  Vec t[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4) {  // 4x4 blocks across the four 128-bit lanes
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(x[i].v, x[i + 1].v));
    const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(x[i].v, x[i + 1].v));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(x[i + 2].v, x[i + 3].v));
    const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(x[i + 2].v, x[i + 3].v));
    t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {  // lane l of t[4g + i] is columns 4l + i of rows 4g..4g+3
    const Vec a = _mm512_shuffle_f32x4(t[i].v, t[i + 4].v, 0x88);
    const Vec b = _mm512_shuffle_f32x4(t[i + 8].v, t[i + 12].v, 0x88);
    const Vec c = _mm512_shuffle_f32x4(t[i].v, t[i + 4].v, 0xdd);
    const Vec d = _mm512_shuffle_f32x4(t[i + 8].v, t[i + 12].v, 0xdd);
    x[i] = _mm512_shuffle_f32x4(a.v, b.v, 0x88);
    x[i + 4] = _mm512_shuffle_f32x4(c.v, d.v, 0x88);
    x[i + 8] = _mm512_shuffle_f32x4(a.v, b.v, 0xdd);
    x[i + 12] = _mm512_shuffle_f32x4(c.v, d.v, 0xdd);
  }
}
#else
/// Transposes the kLanes x kLanes block held by rows of `x`.
QINCO_INLINE void transpose(Vec (&x)[kLanes]) {
  Vec t[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < 8; i += 4) {  // 4x4 blocks in both 128-bit lanes
    const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(x[i].v, x[i + 1].v));
    const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(x[i].v, x[i + 1].v));
    const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(x[i + 2].v, x[i + 3].v));
    const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(x[i + 2].v, x[i + 3].v));
    t[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
    t[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
    t[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
    t[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm256_permute2f128_ps(t[i].v, t[i + 4].v, 0x20);
    x[i + 4] = _mm256_permute2f128_ps(t[i].v, t[i + 4].v, 0x31);
  }
}
#endif

constexpr int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
constexpr int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}
constexpr int64_t blocks_of(int64_t n, int64_t size) {
  return (n + size - 1) / size;
}

/// Vectors per row of the panel that starts at column j of n.
constexpr int panel_vecs(int64_t j, int64_t n) {
  return n - j > kLanes ? kTileVecs : 1;
}

/// Floats from one packed panel of A to the next; the last vectors stored into a panel overhang it.
constexpr int64_t row_panel_size(int64_t k) {
  return k * kTileRows + kLanes;
}

/// Packs `rows` rows of a transposed A, stored [k, rows] with leading dimension lda, into panels of kTileRows.
inline void pack_rows(int64_t rows, int64_t k, const float* a, int64_t lda, float* packed) {
  for (int64_t p = 0; p < k; ++p, a += lda) {
    float* panel = packed + p * kTileRows;
    int64_t i = 0;
    for (; i + kLanes <= rows; i += kTileRows, panel += row_panel_size(k)) store(panel, load(a + i));
    for (; i < rows; i += kTileRows, panel += row_panel_size(k))
      store(panel, load_partial(a + i, static_cast<int>(rows - i)));
  }
}

/// Packs columns [0, cols) of a row-major B [k, ldb] into panels of kTileCols columns, k * kTileCols floats apart.
inline void pack_cols(int64_t cols, int64_t k, const float* b, int64_t ldb, float* packed) {
  for (int64_t p = 0; p < k; ++p, b += ldb) {
    int64_t j = 0;
    float* panel = packed + p * kTileCols;
    for (; j + kTileCols <= cols; j += kTileCols, panel += k * kTileCols)
      for (int v = 0; v < kTileVecs; ++v) store(panel + v * kLanes, load(b + j + v * kLanes));
    const int vecs = panel_vecs(j, cols);
    float* const last = packed + (j / kTileCols) * k * kTileCols + p * vecs * kLanes;
    for (int v = 0; j < cols; ++v, j += kLanes)
      store(last + v * kLanes, load_partial(b + j, static_cast<int>(smaller(kLanes, cols - j))));
  }
}

/// The same for columns stored as rows, [cols, ldb] with k values each.
inline void pack_cols_transposed(int64_t cols, int64_t k, const float* b, int64_t ldb, float* packed) {
  for (int64_t j = 0; j < cols; j += kLanes) {
    const int64_t panel = j / kTileCols;
    const int vecs = panel_vecs(panel * kTileCols, cols);
    float* out = packed + panel * k * kTileCols + j % kTileCols;
    const int64_t rows = smaller(kLanes, cols - j);
    for (int64_t p = 0; p < k; p += kLanes) {
      const int steps = static_cast<int>(smaller(kLanes, k - p));
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) block[r] = r < rows ? load_partial(b + (j + r) * ldb + p, steps) : Vec(0.0f);
      transpose(block);
#pragma GCC unroll 16
      for (int s = 0; s < kLanes; ++s)
        if (s < steps) store(out + (p + s) * vecs * kLanes, block[s]);
    }
  }
}

QINCO_CPU_NAMESPACE_END
