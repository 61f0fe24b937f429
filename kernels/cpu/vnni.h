// Integer dot products in one instruction, on the machines that have VNNI as wide as this ISA's registers.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/dispatch.h"

// What a function has to be compiled for, and per lane: sum + four products of a's unsigned and b's signed bytes, and
// sum + two products of 16-bit integers.
#if defined(QINCO_CPU_avx512)
#define QINCO_VNNI_TARGET __attribute__((target("avx512vnni")))
#define QINCO_VNNI_DOT_BYTES _mm512_dpbusd_epi32
#define QINCO_VNNI_DOT_PAIRS _mm512_dpwssd_epi32
#else
#define QINCO_VNNI_TARGET __attribute__((target("avxvnni")))
#define QINCO_VNNI_DOT_BYTES _mm256_dpbusd_avx_epi32
#define QINCO_VNNI_DOT_PAIRS _mm256_dpwssd_avx_epi32
#endif

QINCO_CPU_NAMESPACE_BEGIN

inline bool has_vnni() {
#if defined(QINCO_CPU_avx512)
  return cpu_has(Feature::avx512_vnni);
#else
  return cpu_has(Feature::avx_vnni);
#endif
}

QINCO_CPU_NAMESPACE_END
