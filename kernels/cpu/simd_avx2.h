// The operations of simd.h in AVX2 with FMA. Included by simd.h only; see the comments there.
#pragma once

#include <cstdint>
#include <immintrin.h>

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kLanes = 8;

// Eight true and eight false lanes: the mask of the first n lanes begins at 8 - n.
alignas(64) constexpr int32_t kLaneMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

// kLanes floats.
struct Vec {
  __m256 v;

  Vec() = default;
  QINCO_INLINE Vec(__m256 native) : v(native) {}
  QINCO_INLINE explicit Vec(float x) : v(_mm256_set1_ps(x)) {}
};

// kLanes int32.
struct IntVec {
  __m256i v;

  IntVec() = default;
  QINCO_INLINE IntVec(__m256i native) : v(native) {}
  QINCO_INLINE explicit IntVec(int32_t x) : v(_mm256_set1_epi32(x)) {}
};

// One truth value per lane.
struct Mask {
  __m256 v;
};

// kLanes / 2 doubles: for sums that must not lose digits.
struct DoubleVec {
  __m256d v;

  DoubleVec() = default;
  QINCO_INLINE DoubleVec(__m256d native) : v(native) {}
};

// --- loads and stores: any alignment; the partial forms touch the first n lanes only, 0 <= n <= kLanes
QINCO_INLINE Vec load(const float* p) {
  return _mm256_loadu_ps(p);
}
QINCO_INLINE void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.v);
}
QINCO_INLINE IntVec load(const int32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
QINCO_INLINE void store(int32_t* p, IntVec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.v);
}
QINCO_INLINE __m256i first_lanes_int(int64_t n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLaneMasks + 8 - n));
}
QINCO_INLINE Mask first_lanes(int64_t n) {
  return {_mm256_castsi256_ps(first_lanes_int(n))};
}
QINCO_INLINE Vec load_bf16(const uint16_t* p) {
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
}
QINCO_INLINE Vec load_partial(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, first_lanes_int(n));
}
QINCO_INLINE void store_partial(float* p, Vec x, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes_int(n), x.v);
}

// --- arithmetic
QINCO_INLINE Vec operator+(Vec a, Vec b) {
  return _mm256_add_ps(a.v, b.v);
}
QINCO_INLINE Vec operator-(Vec a, Vec b) {
  return _mm256_sub_ps(a.v, b.v);
}
QINCO_INLINE Vec operator*(Vec a, Vec b) {
  return _mm256_mul_ps(a.v, b.v);
}
QINCO_INLINE Vec operator/(Vec a, Vec b) {
  return _mm256_div_ps(a.v, b.v);
}
QINCO_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return _mm256_fmadd_ps(a.v, b.v, c.v);
}
QINCO_INLINE Vec sqrt(Vec x) {
  return _mm256_sqrt_ps(x.v);
}
// a < b ? a : b and a > b ? a : b: where either is NaN the result is b.
QINCO_INLINE Vec min(Vec a, Vec b) {
  return _mm256_min_ps(a.v, b.v);
}
QINCO_INLINE Vec max(Vec a, Vec b) {
  return _mm256_max_ps(a.v, b.v);
}
QINCO_INLINE Vec abs(Vec x) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x.v);
}
QINCO_INLINE Vec operator-(Vec x) {
  return _mm256_xor_ps(x.v, _mm256_set1_ps(-0.0f));
}
QINCO_INLINE Vec copysign(Vec magnitude, Vec sign) {
  const __m256 bits = _mm256_set1_ps(-0.0f);
  return _mm256_or_ps(_mm256_and_ps(bits, sign.v), _mm256_andnot_ps(bits, magnitude.v));
}
QINCO_INLINE Vec round(Vec x) {
  return _mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// --- comparison (false where either is NaN) and choice
QINCO_INLINE Mask operator<(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)};
}
QINCO_INLINE Mask operator<=(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)};
}
QINCO_INLINE Mask operator==(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)};
}
QINCO_INLINE Vec select(Mask m, Vec a, Vec b) {
  return _mm256_blendv_ps(b.v, a.v, m.v);
}
QINCO_INLINE IntVec select(Mask m, IntVec a, IntVec b) {
  return _mm256_blendv_epi8(b.v, a.v, _mm256_castps_si256(m.v));
}
// Lane i in bit i.
QINCO_INLINE uint32_t bits_of(Mask m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(m.v));
}

// --- integers
QINCO_INLINE IntVec operator+(IntVec a, IntVec b) {
  return _mm256_add_epi32(a.v, b.v);
}
QINCO_INLINE IntVec max(IntVec a, IntVec b) {
  return _mm256_max_epi32(a.v, b.v);
}
QINCO_INLINE IntVec operator-(IntVec a, IntVec b) {
  return _mm256_sub_epi32(a.v, b.v);
}
QINCO_INLINE IntVec operator&(IntVec a, IntVec b) {
  return _mm256_and_si256(a.v, b.v);
}
template <int bits>  // keeps the sign
QINCO_INLINE IntVec shift_right(IntVec x) {
  return _mm256_srai_epi32(x.v, bits);
}
QINCO_INLINE IntVec bit_cast_int(Vec x) {
  return _mm256_castps_si256(x.v);
}
QINCO_INLINE Vec bit_cast_float(IntVec x) {
  return _mm256_castsi256_ps(x.v);
}
QINCO_INLINE Vec to_float(IntVec x) {
  return _mm256_cvtepi32_ps(x.v);
}
QINCO_INLINE IntVec to_int(Vec x) {  // the nearest, ties to even
  return _mm256_cvtps_epi32(x.v);
}
// kLanes / 2 pairs of the nearest values that 16 bits hold.
QINCO_INLINE void store_int16(int32_t* p, IntVec x) {
  const __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(x.v), _mm256_extracti128_si256(x.v, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
}
// Per lane, the sum of the products of a's and b's two 16-bit integers.
QINCO_INLINE IntVec dot_pairs(IntVec a, IntVec b) {
  return _mm256_madd_epi16(a.v, b.v);
}
QINCO_INLINE IntVec lane_numbers() {
  return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}

// table[ids[i]] in lane i. Not gathered: that takes 1.6 times as long on Zen 3.
constexpr bool kGathers = false;
template <bool>
QINCO_INLINE Vec look_up(const float* table, const uint8_t* ids) {
  return look_up_eight(table, ids);
}

// --- bytes: four in each lane
struct ByteVec {
  __m256i v;

  ByteVec() = default;
  QINCO_INLINE ByteVec(__m256i native) : v(native) {}
};

QINCO_INLINE ByteVec load_bytes_aligned(const uint8_t* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}
QINCO_INLINE void store_aligned(uint8_t* p, ByteVec x) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(p), x.v);
}
// The same four bytes in every lane.
QINCO_INLINE ByteVec repeat_four(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof(four));
  return _mm256_set1_epi32(four);
}
// Per lane, the sum of the eight products of a's unsigned and b's signed bytes; sums of four must fit 16 bits.
QINCO_INLINE IntVec dot_eight(ByteVec a0, ByteVec b0, ByteVec a1, ByteVec b1) {
  const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(a0.v, b0.v), _mm256_maddubs_epi16(a1.v, b1.v));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
// Byte i of a lane is that lane of x[i], rounded to the nearest, ties to even; in [0,255].
QINCO_INLINE ByteVec round_to_bytes(Vec x0, Vec x1, Vec x2, Vec x3) {
  const __m256i low = _mm256_packs_epi32(_mm256_cvtps_epi32(x0.v), _mm256_cvtps_epi32(x1.v));
  const __m256i high = _mm256_packs_epi32(_mm256_cvtps_epi32(x2.v), _mm256_cvtps_epi32(x3.v));
  const __m256i order =
      _mm256_set_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400, 0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
  return _mm256_shuffle_epi8(_mm256_packus_epi16(low, high), order);
}

// --- doubles
QINCO_INLINE DoubleVec zero_double() {
  return _mm256_setzero_pd();
}
QINCO_INLINE DoubleVec operator+(DoubleVec a, DoubleVec b) {
  return _mm256_add_pd(a.v, b.v);
}
QINCO_INLINE DoubleVec operator-(DoubleVec a, DoubleVec b) {
  return _mm256_sub_pd(a.v, b.v);
}
QINCO_INLINE DoubleVec fma(DoubleVec a, DoubleVec b, DoubleVec c) {
  return _mm256_fmadd_pd(a.v, b.v, c.v);
}
QINCO_INLINE DoubleVec low_half(Vec x) {
  return _mm256_cvtps_pd(_mm256_castps256_ps128(x.v));
}
QINCO_INLINE DoubleVec high_half(Vec x) {
  return _mm256_cvtps_pd(_mm256_extractf128_ps(x.v, 1));
}

// In two factors, each a normal number, so that the result may be a denormal or infinite and is rounded once.
QINCO_INLINE Vec scale(Vec x, Vec n) {
  const __m256i exponent = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(exponent, 1),
                bias = _mm256_set1_epi32(127);
  const __m256i rest = _mm256_sub_epi32(exponent, half);
  const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return _mm256_mul_ps(_mm256_mul_ps(x.v, first), second);
}

QINCO_INLINE __m256 fold_sum(Vec x) {
  return x.v;
}
QINCO_INLINE __m256 fold_max(Vec x) {
  return x.v;
}
QINCO_INLINE __m256 fold_min(Vec x) {
  return x.v;
}
QINCO_INLINE __m256d fold_sum(DoubleVec x) {
  return x.v;
}

QINCO_CPU_NAMESPACE_END
