// The largest magnitude of values that are to be rounded to bytes, from which their scale is made.
#pragma once

#include "kernels/cpu/simd.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr float kTiny = 1e-30f;  // scales of smaller values might not be normal numbers

// |x| as integers, which have the order of the magnitudes; NaN is the largest.
QINCO_INLINE IntVec magnitude_bits(Vec x) {
  return bit_cast_int(abs(x));
}

inline float largest_magnitude(int64_t n, const float* x) {
  IntVec bits(0);
  for_lanes(0, n, [&](int64_t j, auto lanes) { bits = max(bits, magnitude_bits(lanes.get(x + j))); });
  int32_t lanes[kLanes], most = 0;
  store(lanes, bits);
  for (const int32_t lane : lanes) most = lane > most ? lane : most;
  return __builtin_bit_cast(float, most);
}

QINCO_CPU_NAMESPACE_END
