// Packing: operands copied into the order in which the register tile reads them. Only what is used several times or
// would be read across the grain is packed: B for more than one row of tiles, A only when it is transposed. Rows of A
// that alias are copied.
#pragma once

#include "kernels/cpu/microkernel.h"
#include "kernels/cpu/transpose.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kLine = 16;  // floats per cache line

constexpr int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
constexpr int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}
constexpr int64_t blocks_of(int64_t n, int64_t size) {
  return (n + size - 1) / size;
}

/// Vectors per row of the panel that starts at column j of n.
constexpr int panel_vecs(int64_t j, int64_t n) {
  return n - j > kLanes ? kTileVecs : 1;
}

/// Floats from one packed panel of A to the next; the last vectors stored into a panel overhang it.
constexpr int64_t row_panel_size(int64_t k) {
  return k * kTileRows + kLanes;
}

/// Packs `rows` rows of a transposed A, stored [k, rows] with leading dimension lda, into panels of kTileRows.
inline void pack_rows(int64_t rows, int64_t k, const float* a, int64_t lda, float* packed) {
  for (int64_t p = 0; p < k; ++p, a += lda) {
    float* panel = packed + p * kTileRows;
    int64_t i = 0;
    for (; i + kLanes <= rows; i += kTileRows, panel += row_panel_size(k)) store(panel, load(a + i));
    for (; i < rows; i += kTileRows, panel += row_panel_size(k))
      store(panel, load_partial(a + i, static_cast<int>(rows - i)));
  }
}

/// True where the lines of a tile's rows are of one set of L1, whose 8 to 12 ways they throw each other out of: such a
/// tile's rows are copied.
constexpr bool rows_alias(int64_t rows, int64_t lda) {
  return smaller(rows, kTileRows) > 8 && lda % 1024 == 0;
}
constexpr int64_t copied_stride(int64_t k) {
  return k + kLine;
}
constexpr int64_t copied_rows_size(int64_t k) {
  return kTileRows * copied_stride(k);
}

/// Copies `rows` rows of k contiguous values to where they do not alias, for all of a tile's columns.
inline StridedRows copy_rows(int rows, int64_t k, const StridedRows& a, float* copied) {
  for (int r = 0; r < rows; ++r)
    for_lanes(0, k, [&](int64_t p, auto lanes) {
      lanes.put(copied + r * copied_stride(k) + p, lanes.get(a.data + r * a.row_stride + p));
    });
  return {copied, copied_stride(k), 1};
}

/// Packs columns [0, cols) of a row-major B [k, ldb] into panels of kTileCols columns, k * kTileCols floats apart.
inline void pack_cols(int64_t cols, int64_t k, const float* b, int64_t ldb, float* packed) {
  for (int64_t p = 0; p < k; ++p, b += ldb) {
    int64_t j = 0;
    float* panel = packed + p * kTileCols;
    for (; j + kTileCols <= cols; j += kTileCols, panel += k * kTileCols)
      for (int v = 0; v < kTileVecs; ++v) store(panel + v * kLanes, load(b + j + v * kLanes));
    const int vecs = panel_vecs(j, cols);
    float* const last = packed + (j / kTileCols) * k * kTileCols + p * vecs * kLanes;
    for (int v = 0; j < cols; ++v, j += kLanes)
      store(last + v * kLanes, load_partial(b + j, static_cast<int>(smaller(kLanes, cols - j))));
  }
}

/// The same for columns stored as rows, [cols, ldb] with k values each.
inline void pack_cols_transposed(int64_t cols, int64_t k, const float* b, int64_t ldb, float* packed) {
  for (int64_t j = 0; j < cols; j += kLanes) {
    const int64_t panel = j / kTileCols;
    const int vecs = panel_vecs(panel * kTileCols, cols);
    float* out = packed + panel * k * kTileCols + j % kTileCols;
    const int64_t rows = smaller(kLanes, cols - j);
    for (int64_t p = 0; p < k; p += kLanes) {
      const int steps = static_cast<int>(smaller(kLanes, k - p));
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) block[r] = r < rows ? load_partial(b + (j + r) * ldb + p, steps) : Vec(0.0f);
      transpose(block);
#pragma GCC unroll 16
      for (int s = 0; s < kLanes; ++s)
        if (s < steps) store(out + (p + s) * vecs * kLanes, block[s]);
    }
  }
}

QINCO_CPU_NAMESPACE_END
