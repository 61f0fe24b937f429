// Sums along a row, shared by the families: blocks of floats in vector lanes, the blocks in double, so that long rows
// lose no digits. The order depends on the length alone.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kSumBlock = 4096;  // floats added in lanes before they go into a double

// The sum over begin <= j < end of add(j, lanes, total), which returns `total` plus the terms at j; the terms of lanes
// that are not there must be 0, as they are when made by products and sums of `lanes.get`.
template <class Add>
QINCO_INLINE Vec sum_block(int64_t begin, int64_t end, Add add) {
  Vec total(0.0f);
  for_lanes(begin, end, [&](int64_t j, auto lanes) { total = add(j, lanes, total); });
  return total;
}

// The same over all j < n.
template <class Add>
QINCO_INLINE double sum_along(int64_t n, Add add) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock)
    total += horizontal_sum(sum_block(begin, begin + kSumBlock < n ? begin + kSumBlock : n, add));
  return total;
}

// total[j] += x[i,j] over `count` (1 or 4) rows: four at a time read `total` a quarter as often.
template <int count>
QINCO_INLINE void add_rows(int64_t cols, const float* x, float* total) {
  for_lanes(0, cols, [&](int64_t j, auto lanes) {
    const float* const p = x + j;
    Vec s = lanes.get(p);
    if constexpr (count == 4) s = (s + lanes.get(p + cols)) + (lanes.get(p + 2 * cols) + lanes.get(p + 3 * cols));
    lanes.put(total + j, lanes.get(total + j) + s);
  });
}

// Rows per chunk of a sum over rows: at most 64 chunks, so that their partial sums stay small, of at least 16 rows.
QINCO_INLINE int64_t column_grain(int64_t rows, int64_t cols) {
  int64_t grain = row_grain(cols);
  if (grain < 16) grain = 16;
  if (grain < (rows + 63) / 64) grain = (rows + 63) / 64;
  return grain;
}

// out[j] = sum over c of partial[c,j], in double.
inline void add_partials(const Context& context, int64_t chunks, int64_t cols, const float* partial, float* out) {
  parallel_for(context, cols, row_grain(chunks), [&](int64_t begin, int64_t end, int) {
    constexpr int64_t kStrip = 8 * kLanes;
    for (int64_t j = begin; j < end; j += kStrip) {
      const int64_t count = end - j < kStrip ? end - j : kStrip;
      double total[kStrip] = {};
      for (int64_t c = 0; c < chunks; ++c)
        for (int64_t s = 0; s < count; ++s) total[s] += partial[c * cols + j + s];
      for (int64_t s = 0; s < count; ++s) out[j + s] = static_cast<float>(total[s]);
    }
  });
}

QINCO_CPU_NAMESPACE_END
