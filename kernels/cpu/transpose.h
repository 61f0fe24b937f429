// kLanes vectors as a square of floats: its transpose, and the sums of its rows.
#pragma once

#include "kernels/cpu/simd.h"

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

/// Lane i: the same bits as horizontal_sum(x[i]), for a fraction of the instructions: two vectors are halved into one.
QINCO_INLINE Vec horizontal_sums(const Vec (&x)[kLanes]) {
  __m512 quarters[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    __m512 halves[2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512 a = x[i + 8 * j].v, b = x[i + 8 * j + 4].v;
      halves[j] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    }
    quarters[i] = _mm512_add_ps(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
                                _mm512_shuffle_f32x4(halves[0], halves[1], 0xdd));
  }
  __m512 pairs[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m512d a = _mm512_castps_pd(quarters[2 * i]), b = _mm512_castps_pd(quarters[2 * i + 1]);
    pairs[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  return _mm512_add_ps(_mm512_shuffle_ps(pairs[0], pairs[1], 0x88), _mm512_shuffle_ps(pairs[0], pairs[1], 0xdd));
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

/// Lane i: the same bits as horizontal_sum(x[i]), for a fraction of the instructions: two vectors are halved into one.
QINCO_INLINE Vec horizontal_sums(const Vec (&x)[kLanes]) {
  __m256 quarters[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256 a = x[i].v, b = x[i + 4].v;
    quarters[i] = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  }
  __m256 pairs[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m256d a = _mm256_castps_pd(quarters[2 * i]), b = _mm256_castps_pd(quarters[2 * i + 1]);
    pairs[i] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
  }
  return _mm256_add_ps(_mm256_shuffle_ps(pairs[0], pairs[1], 0x88), _mm256_shuffle_ps(pairs[0], pairs[1], 0xdd));
}
#endif

QINCO_CPU_NAMESPACE_END
