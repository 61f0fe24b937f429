// The operations of simd.h in AVX-512 (F, BW, DQ, VL). Included by simd.h only; see the comments there.
#pragma once

#include <cstdint>
#include <immintrin.h>

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kLanes = 16;

// kLanes floats.
struct Vec {
  __m512 v;

  Vec() = default;
  QINCO_INLINE Vec(__m512 native) : v(native) {}
  QINCO_INLINE explicit Vec(float x) : v(_mm512_set1_ps(x)) {}
};

// kLanes int32.
struct IntVec {
  __m512i v;

  IntVec() = default;
  QINCO_INLINE IntVec(__m512i native) : v(native) {}
  QINCO_INLINE explicit IntVec(int32_t x) : v(_mm512_set1_epi32(x)) {}
};

// One truth value per lane.
struct Mask {
  __mmask16 v;
};

// kLanes / 2 doubles: for sums that must not lose digits.
struct DoubleVec {
  __m512d v;

  DoubleVec() = default;
  QINCO_INLINE DoubleVec(__m512d native) : v(native) {}
};

// --- loads and stores: any alignment; the partial forms touch the first n lanes only, 0 <= n <= kLanes
QINCO_INLINE Vec load(const float* p) {
  return _mm512_loadu_ps(p);
}
QINCO_INLINE void store(float* p, Vec x) {
  _mm512_storeu_ps(p, x.v);
}
QINCO_INLINE IntVec load(const int32_t* p) {
  return _mm512_loadu_si512(reinterpret_cast<const __m512i*>(p));
}
QINCO_INLINE void store(int32_t* p, IntVec x) {
  _mm512_storeu_si512(p, x.v);
}
QINCO_INLINE Mask first_lanes(int64_t n) {
  return {static_cast<__mmask16>(_bzhi_u32(0xffff, static_cast<uint32_t>(n)))};
}
QINCO_INLINE Vec load_bf16(const uint16_t* p) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}
QINCO_INLINE Vec load_partial(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(first_lanes(n).v, p);
}
QINCO_INLINE void store_partial(float* p, Vec x, int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n).v, x.v);
}

// --- arithmetic
QINCO_INLINE Vec operator+(Vec a, Vec b) {
  return _mm512_add_ps(a.v, b.v);
}
QINCO_INLINE Vec operator-(Vec a, Vec b) {
  return _mm512_sub_ps(a.v, b.v);
}
QINCO_INLINE Vec operator*(Vec a, Vec b) {
  return _mm512_mul_ps(a.v, b.v);
}
QINCO_INLINE Vec operator/(Vec a, Vec b) {
  return _mm512_div_ps(a.v, b.v);
}
QINCO_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return _mm512_fmadd_ps(a.v, b.v, c.v);
}
QINCO_INLINE Vec sqrt(Vec x) {
  return _mm512_sqrt_ps(x.v);
}
// a < b ? a : b and a > b ? a : b: where either is NaN the result is b.
QINCO_INLINE Vec min(Vec a, Vec b) {
  return _mm512_min_ps(a.v, b.v);
}
QINCO_INLINE Vec max(Vec a, Vec b) {
  return _mm512_max_ps(a.v, b.v);
}
QINCO_INLINE Vec abs(Vec x) {
  return _mm512_abs_ps(x.v);
}
QINCO_INLINE Vec operator-(Vec x) {
  return _mm512_xor_ps(x.v, _mm512_set1_ps(-0.0f));
}
QINCO_INLINE Vec copysign(Vec magnitude, Vec sign) {
  const __m512i bits = _mm512_set1_epi32(INT32_MIN);
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(bits, _mm512_castps_si512(sign.v),
                                                       _mm512_castps_si512(magnitude.v), 0xca));  // bits ? sign : mag
}
QINCO_INLINE Vec round(Vec x) {
  return _mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// --- comparison (false where either is NaN) and choice
QINCO_INLINE Mask operator<(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)};
}
QINCO_INLINE Mask operator<=(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)};
}
QINCO_INLINE Mask operator==(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)};
}
QINCO_INLINE Vec select(Mask m, Vec a, Vec b) {
  return _mm512_mask_blend_ps(m.v, b.v, a.v);
}
QINCO_INLINE IntVec select(Mask m, IntVec a, IntVec b) {
  return _mm512_mask_blend_epi32(m.v, b.v, a.v);
}
// Lane i in bit i.
QINCO_INLINE uint32_t bits_of(Mask m) {
  return m.v;
}

// --- integers
QINCO_INLINE IntVec operator+(IntVec a, IntVec b) {
  return _mm512_add_epi32(a.v, b.v);
}
QINCO_INLINE IntVec max(IntVec a, IntVec b) {
  return _mm512_max_epi32(a.v, b.v);
}
QINCO_INLINE IntVec operator-(IntVec a, IntVec b) {
  return _mm512_sub_epi32(a.v, b.v);
}
QINCO_INLINE IntVec operator&(IntVec a, IntVec b) {
  return _mm512_and_si512(a.v, b.v);
}
template <int bits>  // keeps the sign
QINCO_INLINE IntVec shift_right(IntVec x) {
  return _mm512_srai_epi32(x.v, bits);
}
QINCO_INLINE IntVec bit_cast_int(Vec x) {
  return _mm512_castps_si512(x.v);
}
QINCO_INLINE Vec bit_cast_float(IntVec x) {
  return _mm512_castsi512_ps(x.v);
}
QINCO_INLINE Vec to_float(IntVec x) {
  return _mm512_cvtepi32_ps(x.v);
}
QINCO_INLINE IntVec to_int(Vec x) {  // the nearest, ties to even
  return _mm512_cvtps_epi32(x.v);
}
// kLanes / 2 pairs of the nearest values that 16 bits hold.
QINCO_INLINE void store_int16(int32_t* p, IntVec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(x.v));
}
QINCO_INLINE IntVec lane_numbers() {
  return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// table[ids[i]] in lane i.
constexpr bool kGathers = true;
template <bool gathered>
QINCO_INLINE Vec look_up(const float* table, const uint8_t* ids) {
  if constexpr (!gathered) {
    const __m256 low = look_up_eight(table, ids), high = look_up_eight(table, ids + 8);
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
  }
  const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(ids)));
  return _mm512_i32gather_ps(wide, table, 4);
}

// --- bytes: four in each lane
struct ByteVec {
  __m512i v;

  ByteVec() = default;
  QINCO_INLINE ByteVec(__m512i native) : v(native) {}
};

QINCO_INLINE ByteVec load_bytes_aligned(const uint8_t* p) {
  return _mm512_load_si512(reinterpret_cast<const __m512i*>(p));
}
QINCO_INLINE void store_aligned(uint8_t* p, ByteVec x) {
  _mm512_store_si512(reinterpret_cast<__m512i*>(p), x.v);
}
// The same four bytes in every lane.
QINCO_INLINE ByteVec repeat_four(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return _mm512_set1_epi32(four);
}
// Per lane, the sum of the eight products of a's unsigned and b's signed bytes; sums of four must fit 16 bits.
QINCO_INLINE IntVec dot_eight(ByteVec a0, ByteVec b0, ByteVec a1, ByteVec b1) {
  const __m512i pairs = _mm512_add_epi16(_mm512_maddubs_epi16(a0.v, b0.v), _mm512_maddubs_epi16(a1.v, b1.v));
  return _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}
// Byte i of a lane is that lane of x[i], rounded to the nearest, ties to even; in [0,255].
QINCO_INLINE ByteVec round_to_bytes(Vec x0, Vec x1, Vec x2, Vec x3) {
  const __m512i low = _mm512_packs_epi32(_mm512_cvtps_epi32(x0.v), _mm512_cvtps_epi32(x1.v));
  const __m512i high = _mm512_packs_epi32(_mm512_cvtps_epi32(x2.v), _mm512_cvtps_epi32(x3.v));
  const __m512i order = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
  return _mm512_shuffle_epi8(_mm512_packus_epi16(low, high), order);
}

// --- doubles
QINCO_INLINE DoubleVec zero_double() {
  return _mm512_setzero_pd();
}
QINCO_INLINE DoubleVec operator+(DoubleVec a, DoubleVec b) {
  return _mm512_add_pd(a.v, b.v);
}
QINCO_INLINE DoubleVec operator-(DoubleVec a, DoubleVec b) {
  return _mm512_sub_pd(a.v, b.v);
}
QINCO_INLINE DoubleVec fma(DoubleVec a, DoubleVec b, DoubleVec c) {
  return _mm512_fmadd_pd(a.v, b.v, c.v);
}
QINCO_INLINE DoubleVec low_half(Vec x) {
  return _mm512_cvtps_pd(_mm512_castps512_ps256(x.v));
}
QINCO_INLINE DoubleVec high_half(Vec x) {
  return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1));
}

// x * 2^n for integer-valued n; correct into the denormals and to infinity.
QINCO_INLINE Vec scale(Vec x, Vec n) {
  return _mm512_scalef_ps(x.v, n.v);
}

QINCO_INLINE __m256 fold_sum(Vec x) {
  return _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
}
QINCO_INLINE __m256 fold_max(Vec x) {
  return _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
}
QINCO_INLINE __m256 fold_min(Vec x) {
  return _mm256_min_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
}
QINCO_INLINE __m256d fold_sum(DoubleVec x) {
  return _mm256_add_pd(_mm512_castpd512_pd256(x.v), _mm512_extractf64x4_pd(x.v, 1));
}

QINCO_CPU_NAMESPACE_END
