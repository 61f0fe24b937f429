// One vector type per ISA: `Vec`, kLanes floats, with the few operations the kernels need.
//
// Everything lives in an anonymous namespace inside this ISA's namespace, and nothing here may use std:: templates or
// inline functions shared with other files: the linker keeps one copy of those, and would hand AVX-512 code to
// everyone.
#pragma once

#include <cstdint>
#include <immintrin.h>

#define QINCO_CPU_NAMESPACE_BEGIN           \
  namespace qinco::kernels::QINCO_CPU_ISA { \
  namespace {
#define QINCO_CPU_NAMESPACE_END \
  }                             \
  }

#define QINCO_INLINE inline __attribute__((always_inline))

QINCO_CPU_NAMESPACE_BEGIN

// table[ids[i]] in lane i, load by load.
QINCO_INLINE __m128 look_up_four(const float* table, const uint8_t* ids) {
  __m128 x = _mm_load_ss(table + ids[0]);
  x = _mm_insert_ps(x, _mm_load_ss(table + ids[1]), 0x10);
  x = _mm_insert_ps(x, _mm_load_ss(table + ids[2]), 0x20);
  return _mm_insert_ps(x, _mm_load_ss(table + ids[3]), 0x30);
}
QINCO_INLINE __m256 look_up_eight(const float* table, const uint8_t* ids) {
  return _mm256_set_m128(look_up_four(table, ids + 4), look_up_four(table, ids));
}

QINCO_CPU_NAMESPACE_END

#if defined(QINCO_CPU_avx512)
#include "kernels/cpu/simd_avx512.h"
#else
#include "kernels/cpu/simd_avx2.h"
#endif

QINCO_CPU_NAMESPACE_BEGIN

// Makes the compiler have it in a register at this point.
template <class Native>
QINCO_INLINE void keep_in_register(Native& x) {
  asm("" : "+v"(x));
}

// --- horizontal, halving in a fixed order
QINCO_INLINE float horizontal_sum(Vec x) {
  const __m256 eight = fold_sum(x);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
QINCO_INLINE float horizontal_max(Vec x) {  // of numbers: NaN lanes give either operand
  const __m256 eight = fold_max(x);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
QINCO_INLINE float horizontal_min(Vec x) {
  const __m256 eight = fold_min(x);
  const __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_min_ss(two, _mm_shuffle_ps(two, two, 1)));
}
QINCO_INLINE double horizontal_sum(DoubleVec x) {
  const __m256d four = fold_sum(x);
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

// The lowest id of the lanes in `of`; INT32_MAX of none.
QINCO_INLINE int32_t lowest_id(Mask of, IntVec ids) {
  alignas(64) int32_t lanes[kLanes];
  store(lanes, ids);
  int32_t id = INT32_MAX;
  for (uint32_t left = bits_of(of); left != 0; left &= left - 1) {
    const int32_t other = lanes[__builtin_ctz(left)];
    id = other < id ? other : id;
  }
  return id;
}

// --- loops: one body for the whole vectors and for the tail
// A whole vector, as for_lanes hands it to its body.
struct Whole {
  QINCO_INLINE Vec get(const float* p) const { return load(p); }
  QINCO_INLINE Vec get(const uint16_t* bf16) const { return load_bf16(bf16); }
  QINCO_INLINE void put(float* p, Vec x) const { store(p, x); }
  QINCO_INLINE Vec or_else(Vec x, Vec) const { return x; }
};

// The first n lanes.
struct Part {
  int64_t n;
  QINCO_INLINE Vec get(const float* p) const { return load_partial(p, n); }  // the other lanes are 0
  QINCO_INLINE Vec get(const uint16_t* bf16) const {
    uint16_t lanes[kLanes] = {};
    for (int64_t j = 0; j < n; ++j) lanes[j] = bf16[j];
    return load_bf16(lanes);
  }
  QINCO_INLINE void put(float* p, Vec x) const { store_partial(p, x, n); }
  QINCO_INLINE Vec or_else(Vec x, Vec other) const { return select(first_lanes(n), x, other); }
};

// body(j, lanes) for j = begin, begin + kLanes, ...: `lanes` is Whole or, at the end, Part. It loads (get), stores
// (put) and, for a reduction, replaces the lanes that are not there (or_else).
template <class Body>
QINCO_INLINE void for_lanes(int64_t begin, int64_t end, Body&& body) {
  int64_t j = begin;
  for (; j + kLanes <= end; j += kLanes) body(j, Whole{});
  if (j < end) body(j, Part{end - j});
}

QINCO_CPU_NAMESPACE_END
