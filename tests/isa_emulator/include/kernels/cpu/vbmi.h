// kernels/cpu/vbmi.h for the emulator: the same instructions, which it needs no permission for.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/dispatch.h"

#define QINCO_VBMI_TARGET

QINCO_CPU_NAMESPACE_BEGIN

inline bool has_vbmi() {
  return cpu_has(Feature::avx512_vbmi);
}

QINCO_CPU_NAMESPACE_END
