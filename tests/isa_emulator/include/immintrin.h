// The AVX-512 intrinsics that the kernels use, as pairs of AVX2 registers: found before the compiler's own header where
// kernels/cpu is built for the emulator (QINCO_EMULATE_ISA). They live in the kernels' namespace, where their names
// hide the compiler's.
//
// Semantics: Intel's Intrinsics Guide. What a processor would fault on traps here: an unaligned address where an
// aligned one is asked for.
#pragma once
#pragma GCC system_header  // or #include_next would be warned of

#include <cstdint>
#include <cstring>
#include_next <immintrin.h>

namespace qinco::kernels {

struct __m512 {
  __m256 low, high;
};
struct __m512d {
  __m256d low, high;
};
struct __m512i {
  __m256i low, high;
};

// In place of simd.h's template, which needs a native type.
inline void keep_in_register(__m512&) {}
inline void keep_in_register(__m512i&) {}

#define QINCO_EMULATED [[gnu::always_inline]] inline
#define QINCO_UNARY(name, type, half)   \
  QINCO_EMULATED type name(type a) {    \
    return {half(a.low), half(a.high)}; \
  }
#define QINCO_BINARY(name, type, half)                 \
  QINCO_EMULATED type name(type a, type b) {           \
    return {half(a.low, b.low), half(a.high, b.high)}; \
  }

// --- lane by lane, or within 128 bits as AVX2 has it
QINCO_BINARY(_mm512_add_ps, __m512, _mm256_add_ps)
QINCO_BINARY(_mm512_sub_ps, __m512, _mm256_sub_ps)
QINCO_BINARY(_mm512_mul_ps, __m512, _mm256_mul_ps)
QINCO_BINARY(_mm512_div_ps, __m512, _mm256_div_ps)
QINCO_BINARY(_mm512_min_ps, __m512, _mm256_min_ps)
QINCO_BINARY(_mm512_max_ps, __m512, _mm256_max_ps)
QINCO_BINARY(_mm512_xor_ps, __m512, _mm256_xor_ps)
QINCO_BINARY(_mm512_unpacklo_ps, __m512, _mm256_unpacklo_ps)
QINCO_BINARY(_mm512_unpackhi_ps, __m512, _mm256_unpackhi_ps)
QINCO_UNARY(_mm512_sqrt_ps, __m512, _mm256_sqrt_ps)
QINCO_BINARY(_mm512_add_pd, __m512d, _mm256_add_pd)
QINCO_BINARY(_mm512_sub_pd, __m512d, _mm256_sub_pd)
QINCO_BINARY(_mm512_unpacklo_pd, __m512d, _mm256_unpacklo_pd)
QINCO_BINARY(_mm512_unpackhi_pd, __m512d, _mm256_unpackhi_pd)
QINCO_BINARY(_mm512_add_epi32, __m512i, _mm256_add_epi32)
QINCO_BINARY(_mm512_sub_epi32, __m512i, _mm256_sub_epi32)
QINCO_BINARY(_mm512_max_epi32, __m512i, _mm256_max_epi32)
QINCO_BINARY(_mm512_add_epi16, __m512i, _mm256_add_epi16)
QINCO_BINARY(_mm512_sub_epi16, __m512i, _mm256_sub_epi16)
QINCO_BINARY(_mm512_unpacklo_epi16, __m512i, _mm256_unpacklo_epi16)
QINCO_BINARY(_mm512_unpackhi_epi16, __m512i, _mm256_unpackhi_epi16)
QINCO_BINARY(_mm512_max_epi16, __m512i, _mm256_max_epi16)
QINCO_BINARY(_mm512_mulhrs_epi16, __m512i, _mm256_mulhrs_epi16)
QINCO_BINARY(_mm512_max_epu8, __m512i, _mm256_max_epu8)
QINCO_BINARY(_mm512_adds_epu8, __m512i, _mm256_adds_epu8)
QINCO_BINARY(_mm512_srav_epi32, __m512i, _mm256_srav_epi32)
QINCO_UNARY(_mm512_abs_epi8, __m512i, _mm256_abs_epi8)
QINCO_BINARY(_mm512_and_si512, __m512i, _mm256_and_si256)
QINCO_BINARY(_mm512_or_si512, __m512i, _mm256_or_si256)
QINCO_BINARY(_mm512_madd_epi16, __m512i, _mm256_madd_epi16)
QINCO_BINARY(_mm512_maddubs_epi16, __m512i, _mm256_maddubs_epi16)
QINCO_BINARY(_mm512_packs_epi16, __m512i, _mm256_packs_epi16)
QINCO_BINARY(_mm512_packs_epi32, __m512i, _mm256_packs_epi32)
QINCO_BINARY(_mm512_packus_epi16, __m512i, _mm256_packus_epi16)
QINCO_BINARY(_mm512_shuffle_epi8, __m512i, _mm256_shuffle_epi8)

#undef QINCO_UNARY
#undef QINCO_BINARY

QINCO_EMULATED __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
QINCO_EMULATED __m512d _mm512_fmadd_pd(__m512d a, __m512d b, __m512d c) {
  return {_mm256_fmadd_pd(a.low, b.low, c.low), _mm256_fmadd_pd(a.high, b.high, c.high)};
}
QINCO_EMULATED __m512i _mm512_slli_epi32(__m512i x, unsigned bits) {
  return {_mm256_slli_epi32(x.low, static_cast<int>(bits)), _mm256_slli_epi32(x.high, static_cast<int>(bits))};
}
QINCO_EMULATED __m512i _mm512_slli_epi16(__m512i x, unsigned bits) {
  return {_mm256_slli_epi16(x.low, static_cast<int>(bits)), _mm256_slli_epi16(x.high, static_cast<int>(bits))};
}
QINCO_EMULATED __m512i _mm512_srli_epi16(__m512i x, unsigned bits) {
  return {_mm256_srli_epi16(x.low, static_cast<int>(bits)), _mm256_srli_epi16(x.high, static_cast<int>(bits))};
}
QINCO_EMULATED __m512i _mm512_srai_epi32(__m512i x, unsigned bits) {
  return {_mm256_srai_epi32(x.low, static_cast<int>(bits)), _mm256_srai_epi32(x.high, static_cast<int>(bits))};
}
QINCO_EMULATED __m512 _mm512_roundscale_ps(__m512 x, int how) {  // to whole numbers
  return {_mm256_round_ps(x.low, how), _mm256_round_ps(x.high, how)};
}

// --- the same bits as another type, or a part of them
QINCO_EMULATED __m512 _mm512_castsi512_ps(__m512i x) {
  return {_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high)};
}
QINCO_EMULATED __m512i _mm512_castps_si512(__m512 x) {
  return {_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)};
}
QINCO_EMULATED __m512d _mm512_castps_pd(__m512 x) {
  return {_mm256_castps_pd(x.low), _mm256_castps_pd(x.high)};
}
QINCO_EMULATED __m512 _mm512_castps256_ps512(__m256 x) {
  return {x, x};  // the upper half may be anything
}
QINCO_EMULATED __m512 _mm512_insertf32x8(__m512 x, __m256 half, int which) {
  return which == 0 ? __m512{half, x.high} : __m512{x.low, half};
}
QINCO_EMULATED __m512i _mm512_castsi256_si512(__m256i x) {
  return {x, x};  // the upper half may be anything
}
QINCO_EMULATED __m512i _mm512_inserti64x4(__m512i x, __m256i half, int which) {
  return which == 0 ? __m512i{half, x.high} : __m512i{x.low, half};
}
QINCO_EMULATED __m512 _mm512_castpd_ps(__m512d x) {
  return {_mm256_castpd_ps(x.low), _mm256_castpd_ps(x.high)};
}
QINCO_EMULATED __m256 _mm512_castps512_ps256(__m512 x) {
  return x.low;
}
QINCO_EMULATED __m256d _mm512_castpd512_pd256(__m512d x) {
  return x.low;
}
QINCO_EMULATED __m256i _mm512_castsi512_si256(__m512i x) {
  return x.low;
}
QINCO_EMULATED __m256 _mm512_extractf32x8_ps(__m512 x, int which) {
  return which ? x.high : x.low;
}
QINCO_EMULATED __m256d _mm512_extractf64x4_pd(__m512d x, int which) {
  return which ? x.high : x.low;
}
QINCO_EMULATED __m256i _mm512_extracti64x4_epi64(__m512i x, int which) {
  return which ? x.high : x.low;
}

// --- constants
QINCO_EMULATED __m512 _mm512_set1_ps(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
QINCO_EMULATED __m512i _mm512_set1_epi32(int x) {
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
QINCO_EMULATED __m512i _mm512_set1_epi16(short x) {
  return {_mm256_set1_epi16(x), _mm256_set1_epi16(x)};
}
QINCO_EMULATED __m512i _mm512_set1_epi8(char x) {
  return {_mm256_set1_epi8(x), _mm256_set1_epi8(x)};
}
QINCO_EMULATED __m512i _mm512_setzero_si512() {
  return {_mm256_setzero_si256(), _mm256_setzero_si256()};
}
QINCO_EMULATED __m512d _mm512_setzero_pd() {
  return {_mm256_setzero_pd(), _mm256_setzero_pd()};
}
QINCO_EMULATED __m512i _mm512_set4_epi32(int d, int c, int b, int a) {
  const __m256i half = _mm256_setr_epi32(a, b, c, d, a, b, c, d);
  return {half, half};
}
QINCO_EMULATED __m512i _mm512_setr_epi32(int a, int b, int c, int d, int e, int f, int g, int h, int i, int j, int k,
                                         int l, int m, int n, int o, int p) {
  return {_mm256_setr_epi32(a, b, c, d, e, f, g, h), _mm256_setr_epi32(i, j, k, l, m, n, o, p)};
}

// --- memory
QINCO_EMULATED void trap_unaligned(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 64 != 0) __builtin_trap();
}
QINCO_EMULATED __m512 _mm512_loadu_ps(const void* p) {
  __m512 x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
QINCO_EMULATED void _mm512_storeu_ps(void* p, __m512 x) {
  std::memcpy(p, &x, sizeof x);
}
QINCO_EMULATED __m512i _mm512_loadu_si512(const void* p) {
  return _mm512_castps_si512(_mm512_loadu_ps(p));
}
QINCO_EMULATED void _mm512_storeu_si512(void* p, __m512i x) {
  std::memcpy(p, &x, sizeof x);
}
QINCO_EMULATED __m512i _mm512_load_si512(const void* p) {
  trap_unaligned(p);
  return _mm512_loadu_si512(p);
}
QINCO_EMULATED void _mm512_store_si512(void* p, __m512i x) {
  trap_unaligned(p);
  std::memcpy(p, &x, sizeof x);
}

// --- masks: lane i is bit i
QINCO_EMULATED __m256i lanes_of(unsigned bits) {
  const __m256i powers = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), powers), powers);
}
QINCO_EMULATED __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int how) {
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, how));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, how));
  return static_cast<__mmask16>(low | high << 8);
}
QINCO_EMULATED __mmask64 _mm512_cmpeq_epi8_mask(__m512i a, __m512i b) {
  const auto low = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(a.low, b.low)));
  const auto high = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(a.high, b.high)));
  return __mmask64{high} << 32 | low;
}
QINCO_EMULATED __mmask64 _mm512_movepi8_mask(__m512i x) {
  const auto low = static_cast<uint32_t>(_mm256_movemask_epi8(x.low));
  return __mmask64{static_cast<uint32_t>(_mm256_movemask_epi8(x.high))} << 32 | low;
}
QINCO_EMULATED __m512i _mm512_mask_blend_epi8(__mmask64 mask, __m512i unset, __m512i set) {
  alignas(64) uint8_t out[64], other[64];
  _mm512_store_si512(out, unset), _mm512_store_si512(other, set);
  for (int i = 0; i < 64; ++i) out[i] = mask >> i & 1 ? other[i] : out[i];
  return _mm512_load_si512(out);
}
QINCO_EMULATED __m512 _mm512_mask_blend_ps(__mmask16 mask, __m512 unset, __m512 set) {
  return {_mm256_blendv_ps(unset.low, set.low, _mm256_castsi256_ps(lanes_of(mask))),
          _mm256_blendv_ps(unset.high, set.high, _mm256_castsi256_ps(lanes_of(mask >> 8)))};
}
QINCO_EMULATED __m512i _mm512_mask_blend_epi32(__mmask16 mask, __m512i unset, __m512i set) {
  return _mm512_castps_si512(_mm512_mask_blend_ps(mask, _mm512_castsi512_ps(unset), _mm512_castsi512_ps(set)));
}
QINCO_EMULATED __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* p) {
  const float* const from = static_cast<const float*>(p);
  return {_mm256_maskload_ps(from, lanes_of(mask)), _mm256_maskload_ps(from + 8, lanes_of(mask >> 8))};
}
QINCO_EMULATED void _mm512_mask_storeu_ps(void* p, __mmask16 mask, __m512 x) {
  float* const to = static_cast<float*>(p);
  _mm256_maskstore_ps(to, lanes_of(mask), x.low);
  _mm256_maskstore_ps(to + 8, lanes_of(mask >> 8), x.high);
}
QINCO_EMULATED __m512 _mm512_abs_ps(__m512 x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}

// --- conversions
QINCO_EMULATED __m512i _mm512_cvtps_epi32(__m512 x) {
  return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)};
}
QINCO_EMULATED __m512 _mm512_cvtepi32_ps(__m512i x) {
  return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)};
}
QINCO_EMULATED __m512d _mm512_cvtps_pd(__m256 x) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
}
QINCO_EMULATED __m512i _mm512_cvtepu8_epi32(__m128i x) {
  return {_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))};
}
QINCO_EMULATED __m512i _mm512_cvtepu16_epi32(__m256i x) {
  return {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1))};
}
QINCO_EMULATED __m256i _mm512_cvtsepi32_epi16(__m512i x) {
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(x.low, x.high), 0xd8);
}
QINCO_EMULATED __m128i _mm512_cvtepi32_epi8(__m512i x) {
  alignas(64) int32_t wide[16];
  _mm512_store_si512(wide, x);
  alignas(16) uint8_t out[16];
  for (int i = 0; i < 16; ++i) out[i] = static_cast<uint8_t>(wide[i]);
  return _mm_load_si128(reinterpret_cast<const __m128i*>(out));
}

// --- across lanes
QINCO_EMULATED __m512i _mm512_permutex2var_epi8(__m512i a, __m512i ids, __m512i b) {
  alignas(64) uint8_t from[128], at[64];
  _mm512_store_si512(from, a), _mm512_store_si512(from + 64, b), _mm512_store_si512(at, ids);
  for (uint8_t& id : at) id = from[id & 127];
  return _mm512_load_si512(at);
}
QINCO_EMULATED __m512 _mm512_shuffle_ps(__m512 a, __m512 b, int which) {
  alignas(32) float x[16], y[16], out[16];
  _mm256_store_ps(x, a.low), _mm256_store_ps(x + 8, a.high);
  _mm256_store_ps(y, b.low), _mm256_store_ps(y + 8, b.high);
  for (int i = 0; i < 16; ++i) out[i] = (i % 4 < 2 ? x : y)[i / 4 * 4 + (which >> i % 4 * 2 & 3)];
  return {_mm256_load_ps(out), _mm256_load_ps(out + 8)};
}
QINCO_EMULATED __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int which) {
  const auto quarter = [which](const __m512& x, int place) {
    const int i = which >> 2 * place & 3;
    const __m256 half = i < 2 ? x.low : x.high;
    return i % 2 ? _mm256_extractf128_ps(half, 1) : _mm256_castps256_ps128(half);
  };
  return {_mm256_set_m128(quarter(a, 1), quarter(a, 0)), _mm256_set_m128(quarter(b, 3), quarter(b, 2))};
}
QINCO_EMULATED __m512 _mm512_i32gather_ps(__m512i at, const void* base, int size) {
  alignas(64) int32_t offset[16];
  _mm512_storeu_si512(offset, at);
  float x[16];
  for (int i = 0; i < 16; ++i)
    std::memcpy(&x[i], static_cast<const char*>(base) + int64_t{offset[i]} * size, sizeof(float));
  return _mm512_loadu_ps(x);
}

// --- what has no counterpart in AVX2, in plain loops
namespace emulated {

constexpr int kChoice = 0xca;  // a ? b : c, bit by bit

inline float scalef(float x, float n) {
  constexpr float kBeyond = 1000;  // infinite or zero, whatever x is
  if (n != n) return n;
  return __builtin_ldexpf(x, static_cast<int>(__builtin_floorf(n > kBeyond ? kBeyond : n < -kBeyond ? -kBeyond : n)));
}

// To bfloat16, ties to even; denormals become zero.
inline uint16_t bf16(uint32_t bits) {
  constexpr uint32_t kExponent = 0x7f800000, kFraction = 0x007fffff;
  const uint32_t sign = bits & 0x80000000, exponent = bits & kExponent;
  if (exponent == 0) return static_cast<uint16_t>(sign >> 16);
  if (exponent == kExponent) return static_cast<uint16_t>(bits >> 16 | (bits & kFraction ? 0x40 : 0));
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace emulated

inline __m512i _mm512_ternarylogic_epi32(__m512i a, __m512i b, __m512i c, int table) {
  if (table != emulated::kChoice) __builtin_trap();
  const auto choose = [](__m256i by, __m256i x, __m256i y) {
    return _mm256_or_si256(_mm256_and_si256(by, x), _mm256_andnot_si256(by, y));
  };
  return {choose(a.low, b.low, c.low), choose(a.high, b.high, c.high)};
}

inline __m512 _mm512_scalef_ps(__m512 x, __m512 n) {
  float values[16], powers[16];
  _mm512_storeu_ps(values, x);
  _mm512_storeu_ps(powers, n);
  for (int i = 0; i < 16; ++i) values[i] = emulated::scalef(values[i], powers[i]);
  return _mm512_loadu_ps(values);
}

// 32 bfloat16 values: `low` in the lower half.
inline __m512i _mm512_cvtne2ps_pbh(__m512 high, __m512 low) {
  uint32_t bits[32];
  uint16_t rounded[32];
  _mm512_storeu_ps(bits, low);
  _mm512_storeu_ps(bits + 16, high);
  for (int i = 0; i < 32; ++i) rounded[i] = emulated::bf16(bits[i]);
  return _mm512_loadu_si512(rounded);
}

// Per lane, sum + the products of a's unsigned and b's signed bytes.
inline __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  const auto dot = [](__m256i total, __m256i x, __m256i y) {
    const __m256i even =
        _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(y, 8));
    return _mm256_add_epi32(total, _mm256_add_epi32(even, odd));
  };
  return {dot(sum.low, a.low, b.low), dot(sum.high, a.high, b.high)};
}

// Per lane, sum + the products of 16-bit integers.
QINCO_EMULATED __m512i _mm512_dpwssd_epi32(__m512i sum, __m512i a, __m512i b) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
}

#undef QINCO_EMULATED

}  // namespace qinco::kernels
