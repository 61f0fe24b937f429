// One vector type per ISA: `Vec`, kLanes floats. Everything lives in this ISA's namespace, and nothing here may use
// std:: templates or scalar inline functions shared with other files: the linker would hand their AVX code to everyone.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define QINCO_CPU_NAMESPACE_BEGIN          \
  namespace qinco::kernels::QINCO_CPU_ISA { \
  namespace {
#define QINCO_CPU_NAMESPACE_END \
  }                             \
  }
