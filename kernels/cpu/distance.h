// Squared lengths of short vectors: one sum in float, in an order that depends on the length alone.
#pragma once

#include "kernels/cpu/simd.h"

QINCO_CPU_NAMESPACE_BEGIN

inline float squared_norm(int64_t d, const float* x) {
  Vec sum(0.0f);
  int64_t j = 0;
  for (; j + kLanes <= d; j += kLanes) {
    const Vec v = load(x + j);
    sum = fma(v, v, sum);
  }
  const Vec rest = load_partial(x + j, d - j);
  return horizontal_sum(fma(rest, rest, sum));
}

inline float squared_distance(int64_t d, const float* x, const float* y) {
  Vec sum(0.0f);
  int64_t j = 0;
  for (; j + kLanes <= d; j += kLanes) {
    const Vec v = load(x + j) - load(y + j);
    sum = fma(v, v, sum);
  }
  const Vec rest = load_partial(x + j, d - j) - load_partial(y + j, d - j);
  return horizontal_sum(fma(rest, rest, sum));
}

QINCO_CPU_NAMESPACE_END
