// kernels/cpu/vnni.h for the emulator: the same instructions, which it needs no permission for.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/dispatch.h"

#define QINCO_VNNI_TARGET
#define QINCO_VNNI_DOT_BYTES _mm512_dpbusd_epi32
#define QINCO_VNNI_DOT_PAIRS _mm512_dpwssd_epi32

QINCO_CPU_NAMESPACE_BEGIN

inline bool has_vnni() {
  return cpu_has(Feature::avx512_vnni);
}

QINCO_CPU_NAMESPACE_END
