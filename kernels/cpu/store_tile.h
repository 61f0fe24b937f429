// The end of a tile of a product: what else is added to its sums, and where they go.
#pragma once

#include "kernels/cpu/microkernel.h"

QINCO_CPU_NAMESPACE_BEGIN

/// What a tile does with its sums before storing them.
struct Finish {
  bool accumulate, relu;
  const float* bias;      // at the tile's first column, or null
  const float* residual;  // at the tile's first element, or null
  int64_t ldr;
};

template <int kRows, int kVecs>
QINCO_INLINE void store_tile(Vec (&acc)[kRows][kVecs], float* c, int64_t ldc, int tail, const Finish& finish) {
  const auto read = [tail](const float* p, int v) {
    return v + 1 < kVecs ? load(p + v * kLanes) : load_partial(p + v * kLanes, tail);
  };
  const auto each = [&acc](auto&& body) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) acc[r][v] = body(acc[r][v], r, v);
    }
  };
  if (finish.accumulate) each([&](Vec x, int r, int v) { return x + read(c + r * ldc, v); });
  if (finish.bias) each([&](Vec x, int, int v) { return x + read(finish.bias, v); });
  if (finish.residual) each([&](Vec x, int r, int v) { return x + read(finish.residual + r * finish.ldr, v); });
  if (finish.relu) each([](Vec x, int, int) { return max(Vec(0.0f), x); });
  if (tail == kLanes) {
    each([&](Vec x, int r, int v) { return store(c + r * ldc + v * kLanes, x), x; });
  } else {
    each([&](Vec x, int r, int v) {
      if (v + 1 < kVecs)
        store(c + r * ldc + v * kLanes, x);
      else
        store_partial(c + r * ldc + v * kLanes, x, tail);
      return x;
    });
  }
}

QINCO_CPU_NAMESPACE_END
