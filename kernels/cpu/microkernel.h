// The register tile of every matrix product here: up to kTileRows x kTileVecs vectors of accumulators, which leaves
// room for one row of B and one broadcast element of A (AVX-512: 14 x 32 floats in 28 of 32 registers; AVX2: 6 x 16 in
// 12 of 16). A step of k loads kTileVecs vectors and broadcasts kTileRows scalars for kTileRows * kTileVecs FMAs: the
// FMA ports, not the load ports, are the limit.
#pragma once

#include "kernels/cpu/simd.h"

QINCO_CPU_NAMESPACE_BEGIN

#if defined(QINCO_CPU_avx512)
constexpr int kTileRows = 14;
#else
constexpr int kTileRows = 6;
#endif
constexpr int kTileVecs = 2;
constexpr int64_t kTileCols = kTileVecs * kLanes;

/// The rows of A under a tile, wherever they are: element (r, p) is at data[r * row_stride + p * step].
struct StridedRows {
  const float* data;
  int64_t row_stride;
  int64_t step;
  QINCO_INLINE float at(int r) const { return data[r * row_stride]; }
  QINCO_INLINE void advance() { data += step; }
};

/// A panel of A packed by pack_rows: element (r, p) is at data[p * kTileRows + r].
struct PackedRows {
  const float* data;
  QINCO_INLINE float at(int r) const { return data[r]; }
  QINCO_INLINE void advance() { data += kTileRows; }
};

/// The columns of B under a tile, packed by pack_cols (step = kVecs * kLanes, zero beyond the matrix) or in place
/// (step = ldb); the last vector reads `tail` lanes.
template <int kVecs>
struct Columns {
  const float* data;
  int64_t step;
  int tail;
  QINCO_INLINE Vec row(int v) const {
    return v + 1 < kVecs ? load(data + v * kLanes) : load_partial(data + v * kLanes, tail);
  }
  QINCO_INLINE void advance() { data += step; }
};

/// acc[r][v] += sum over p < k of A(r, p) * B(p, v).
template <int kRows, int kVecs, class A, class B>
QINCO_INLINE void accumulate_onto(int64_t k, A a, B b, Vec (&acc)[kRows][kVecs]) {
  for (int64_t p = 0; p < k; ++p) {
    Vec row[kVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) row[v] = b.row(v);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec scalar = Vec(a.at(r));
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) acc[r][v] = fma(scalar, row[v], acc[r][v]);
    }
    a.advance();
    b.advance();
  }
}

/// acc[r][v] = sum over p < k of A(r, p) * B(p, v).
template <int kRows, int kVecs, class A, class B>
QINCO_INLINE void accumulate(int64_t k, A a, B b, Vec (&acc)[kRows][kVecs]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) acc[r][v] = Vec(0.0f);
  }
  accumulate_onto(k, a, b, acc);
}

QINCO_CPU_NAMESPACE_END
