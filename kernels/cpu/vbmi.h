// Look-ups of bytes in tables of up to 128, 64 in an instruction, on the machines that have AVX-512 VBMI.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/dispatch.h"

#define QINCO_VBMI_TARGET __attribute__((target("avx512vbmi")))  // what a function has to be compiled for

QINCO_CPU_NAMESPACE_BEGIN

inline bool has_vbmi() {
  return cpu_has(Feature::avx512_vbmi);
}

QINCO_CPU_NAMESPACE_END
