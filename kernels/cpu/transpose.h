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

/// Lane i: the same bits as horizontal_sum(x[i]), for a fraction of the instructions.
QINCO_INLINE Vec horizontal_sums(Vec (&x)[kLanes]) {
  transpose(x);
#pragma GCC unroll 16
  for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < half; ++i) x[i] = x[i] + x[i + half];
  }
  return x[0];
}

QINCO_CPU_NAMESPACE_END
