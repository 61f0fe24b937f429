// Products of few rows: every element of B is used a few times only, so it is read once, as it lies, and not packed.
#pragma once

#include "kernels/cpu/pack.h"
#include "kernels/cpu/store_tile.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kFewWork = int64_t{1} << 18;  // multiply-adds that are worth a task

/// What the whole product does with its sums, at (row, column) of C.
QINCO_INLINE Finish whole_finish(const Gemm<float>& g, int64_t row, int64_t column) {
  return {g.accumulate, g.relu, g.bias ? g.bias + column : nullptr,
          g.residual ? g.residual + row * g.ldr + column : nullptr, g.ldr};
}

// --- B transposed: rows of both operands are read along, a vector at a time, and nothing is transposed but the sums

#if defined(QINCO_CPU_avx512)
constexpr int kDotRows = 5;  // rows of A taken together, at most
constexpr int kDotSums = 20;
constexpr int64_t kDotLength = 20;
#else
constexpr int kDotRows = 6;
constexpr int kDotSums = 12;
constexpr int64_t kDotLength = 4;
#endif

/// Whether that is worth it: a row of C ends with the sum of each of its vectors, a tile of packed columns does not.
QINCO_INLINE bool is_dot(const Gemm<float>& g) {
  return g.trans_b && g.m <= kTileRows && g.k >= kDotLength * g.m;
}

/// The rows of B to take with so many of A: enough sums to hide the latency of an FMA, not more than there are
/// registers for.
constexpr int dot_columns(int rows) {
  int columns = 8;
  while (columns * rows > kDotSums) columns /= 2;
  return columns;
}

/// The next vector of each of several rows, as an operand of accumulate_onto.
template <class Lanes>
struct Along {
  const float* data;
  int64_t ld;
  Lanes lanes;
  QINCO_INLINE Vec row(int r) const { return lanes.get(data + r * ld); }
  QINCO_INLINE Vec at(int r) const {
    Vec x = row(r);
    keep_in_register(x.v);  // GCC 12 would load it again for each product
    return x;
  }
  QINCO_INLINE void advance() { data += kLanes; }
};

/// A tile of C whose columns of B are stored as rows; at most kLanes columns.
struct DotTile {
  int64_t k;
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  int columns;
  float* c;
  int64_t ldc;
};

/// sums[r][j] = per lane, the sum over k of A(r, .) B(j, .), for kCols columns from `first` on.
template <int kRows, int kCols>
QINCO_INLINE void dot_products(const DotTile& tile, int first, Vec (&sums)[kRows][kLanes]) {
  constexpr bool kHoldRows = kRows < kCols;  // a vector of each of the fewer is held in registers
  constexpr int kHeld = kHoldRows ? kRows : kCols, kStreamed = kHoldRows ? kCols : kRows;
  Vec acc[kStreamed][kHeld];
#pragma GCC unroll 16
  for (int s = 0; s < kStreamed; ++s) {
#pragma GCC unroll 16
    for (int h = 0; h < kHeld; ++h) acc[s][h] = Vec(0.0f);
  }
  const float* const b = tile.b + first * tile.ldb;
  const auto add = [&](int64_t p, int64_t steps, auto lanes) {
    const Along<decltype(lanes)> rows{tile.a + p, tile.lda, lanes}, columns{b + p, tile.ldb, lanes};
    accumulate_onto(steps, kHoldRows ? columns : rows, kHoldRows ? rows : columns, acc);
  };
  int64_t p = 0;
  for (; p + kLine <= tile.k; p += kLine) {
    const float* const ahead = b + 2 * kLanes * tile.ldb + p;
#pragma GCC unroll 16
    for (int j = 0; j < kCols; ++j)  // of the tile after the next: so many short streams are too many for the hardware
      __builtin_prefetch(ahead + j * tile.ldb, 0, 2);
    add(p, kLine / kLanes, Whole{});
  }
  if (p + kLanes <= tile.k) add(p, 1, Whole{}), p += kLanes;
  if (p < tile.k) add(p, 1, Part{tile.k - p});
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < kCols; ++j) sums[r][first + j] = kHoldRows ? acc[j][r] : acc[r][j];
  }
}

template <int kRows>
__attribute__((noinline)) void dot_tile(const DotTile& t, const Finish& finish) {
  constexpr int kCols = dot_columns(kRows);
  Vec sums[kRows][kLanes];
  int j = 0;
  for (; j + kCols <= t.columns; j += kCols) dot_products<kRows, kCols>(t, j, sums);
  for (; j < t.columns; ++j) dot_products<kRows, 1>(t, j, sums);
  for (; j < kLanes; ++j)
    for (int r = 0; r < kRows; ++r) sums[r][j] = Vec(0.0f);
  Vec acc[kRows][1];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) acc[r][0] = horizontal_sums(sums[r]);
  store_tile(acc, t.c, t.ldc, t.columns, finish);
}

/// With `rows` rows, up to kRows.
template <int kRows = kDotRows>
void dot_rows(int rows, const DotTile& tile, const Finish& finish) {
  if constexpr (kRows > 1)
    if (rows < kRows) return dot_rows<kRows - 1>(rows, tile, finish);
  dot_tile<kRows>(tile, finish);
}

inline void dot_product(const Context& context, const Gemm<float>& g) {
  ScratchFrame frame(context);
  const float* a = g.a;
  int64_t lda = g.lda;
  if (g.trans_a) {
    float* const rows = frame.get<float>(g.m * g.k);
    for (int64_t p = 0; p < g.k; ++p)
      for (int64_t i = 0; i < g.m; ++i) rows[i * g.k + p] = g.a[p * g.lda + i];
    a = rows, lda = g.k;
  }
  const int64_t together = blocks_of(g.m, blocks_of(g.m, kDotRows));
  const int64_t grain = larger(1, kFewWork / larger(1, g.m * kLanes * g.k)) * kLanes;
  parallel_for(context, g.n, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t j = begin; j < end; j += kLanes) {
      const int columns = static_cast<int>(smaller(kLanes, end - j));
      for (int64_t i = 0; i < g.m; i += together)
        dot_rows(static_cast<int>(smaller(together, g.m - i)),
                 {g.k, a + i * lda, lda, g.b + j * g.ldb, g.ldb, columns, g.c + i * g.ldc + j, g.ldc},
                 whole_finish(g, i, j));
    }
  });
}

// --- one row, and B as it lies

constexpr int64_t kRowSteps = 8;              // rows of B taken together
constexpr int64_t kRowColumns = 64 * kLanes;  // columns whose sums stay in L1 meanwhile

/// Rows of B are read along, some at a time, into sums of many columns.
inline void one_row(const Context& context, const Gemm<float>& g) {
  const int64_t step = g.trans_a ? g.lda : 1;
  const int64_t grain = blocks_of(larger(1, kFewWork / larger(1, g.k)), kLanes) * kLanes;
  parallel_for(context, g.n, smaller(grain, kRowColumns), [&](int64_t begin, int64_t end, int) {
    alignas(64) float sums[kRowColumns];
    const int64_t columns = end - begin;
    for (int64_t j = 0; j < columns; j += kLanes) store(sums + j, Vec(0.0f));
    for (int64_t p = 0; p < g.k; p += kRowSteps) {
      const int64_t steps = smaller(kRowSteps, g.k - p);
      for (int64_t j = 0; j < columns; j += kLanes) {
        const float* b = g.b + p * g.ldb + begin + j;
        const float* a = g.a + p * step;
        const bool whole = columns - j >= kLanes;
        Vec sum = load(sums + j);
        for (int64_t i = 0; i < steps; ++i, a += step, b += g.ldb)
          sum = fma(Vec(*a), whole ? load(b) : load_partial(b, columns - j), sum);
        store(sums + j, sum);
      }
    }
    const Finish all = whole_finish(g, 0, begin);
    for (int64_t j = 0; j < columns; j += kLanes) {
      Vec acc[1][1] = {{load(sums + j)}};
      const Finish finish{all.accumulate, all.relu, all.bias ? all.bias + j : nullptr,
                          all.residual ? all.residual + j : nullptr, all.ldr};
      store_tile(acc, g.c + begin + j, g.ldc, static_cast<int>(smaller(kLanes, columns - j)), finish);
    }
  });
}

QINCO_CPU_NAMESPACE_END
