// `linear` in 16-bit integers: on two ports for the products and others for their sums, twice as many a cycle as float.
//
// A row v of x or W becomes whole numbers: v scaled to length 32767, then rounded, which adds sqrt(k)/2 to the length
// at most. By the Cauchy-Schwarz inequality every sum of products, and every part of it, is at most (32767 +
// sqrt(k)/2)^2, which fits 32 bits for k up to 2^20 (and well beyond). Rounding moves an element by up to half, so the
// product of two rows by up to sqrt(k) 2^-15 of |x||w|; as the errors have either sign, they add up to about 2^-16 of
// it.
#pragma once

#include "kernels/cpu/row_sums.h"
#include "kernels/cpu/tile_tasks.h"
#include "kernels/cpu/vnni.h"
#include "kernels/kernels.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr float kInt16Length = 32767;
constexpr double kLeastLength = 1e-28;          // of rows that count: over 32767^2 it still is a normal float
constexpr int64_t kInt16RowPairs = 1 << 16;     // of x converted together, in all, or kTileRows rows
constexpr int64_t kInt16WeightPairs = 1 << 15;  // 128 KB of weights that all rows are multiplied by before the next

// Without VNNI, 512-bit registers take an addition more than float and gain nothing.
inline bool in_int16(Precision precision) {
#if defined(QINCO_CPU_avx512)
  return precision == Precision::fast && has_vnni();
#else
  return precision == Precision::fast;
#endif
}

/// Pairs of a row of k, up to a whole number of registers.
constexpr int64_t pairs_of(int64_t k) {
  return blocks_of(k, kLanes) * kLanes / 2;
}

/// The length of v [k]; the double arithmetic is for what float cannot square.
inline double row_length(int64_t k, const float* v) {
  double sum = sum_along(k, [&](int64_t j, auto lanes, Vec total) {
    const Vec x = lanes.get(v + j);
    return fma(x, x, total);
  });
  if (!(sum > 1e-30 && sum < 1e30)) {
    sum = 0;
    for (int64_t j = 0; j < k; ++j) sum += static_cast<double>(v[j]) * v[j];
  }
  return __builtin_sqrt(sum);
}

/// v [k] as pairs_of(k) pairs of integers; returns the length of v, which they have for 32767: NaN where v has NaN or
/// infinity.
inline float to_int16(int64_t k, const float* v, int32_t* pairs) {
  const double length = row_length(k, v);
  const bool usable = length >= kLeastLength && length <= static_cast<double>(__FLT_MAX__);
  const Vec scale(usable ? static_cast<float>(kInt16Length / length) : 0.0f);
  for_lanes(0, k, [&](int64_t j, auto lanes) { store_int16(pairs + j / 2, to_int(lanes.get(v + j) * scale)); });
  if (usable) return static_cast<float>(length);
  return length < kLeastLength ? 0.0f : __builtin_nanf("");
}

// The pack: panels [pairs][kTileCols] of pairs, one after the other, then the factor |w| / 32767^2 of every column, so
// that sums times factors are at most about |w|. Columns beyond n are zeros.
constexpr int64_t int16_columns(int64_t n) {
  return blocks_of(n, kTileCols) * kTileCols;
}

constexpr int64_t int16_packed_size(int64_t n, int64_t k) {
  return int16_columns(n) * (pairs_of(k) + 1);
}

inline void int16_pack(const Context& context, int64_t n, int64_t k, const float* w, int64_t ldw, float* packed) {
  const int64_t pairs = pairs_of(k);
  auto* const out = reinterpret_cast<int32_t*>(packed);
  float* const factors = packed + int16_columns(n) * pairs;
  ScratchFrame frame(context);
  int32_t* const rows = frame.get<int32_t>(context.threads * pairs);
  parallel_for(context, int16_columns(n), kTileCols, [&](int64_t begin, int64_t end, int worker) {
    int32_t* const row = rows + worker * pairs;
    for (int64_t j = begin; j < end; ++j) {
      factors[j] = j < n ? to_int16(k, w + j * ldw, row) / (kInt16Length * kInt16Length) : 0.0f;
      int32_t* const column = out + begin * pairs + (j - begin);
      for (int64_t p = 0; p < pairs; ++p) column[p * kTileCols] = j < n ? row[p] : 0;
    }
  });
}

/// A tile of x W^T: rows of x [..][pairs] times one panel of W.
struct Int16Tile {
  int64_t pairs;
  const int32_t *x, *w;
  const float *row_lengths, *column_factors;
  float* out;  // rows of kTileCols
  int64_t ldo;
};

template <int kRows>
QINCO_INLINE void clear(IntVec (&sum)[kRows][kTileVecs]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) sum[r][v] = IntVec(0);
}

template <int kRows>
QINCO_INLINE void store_products(IntVec (&sum)[kRows][kTileVecs], const Int16Tile& tile) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) keep_in_register(sum[r][v].v);  // or GCC 12 keeps the loop's sums in memory
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) {
      const Vec product = to_float(sum[r][v]) * load(tile.column_factors + v * kLanes) * Vec(tile.row_lengths[r]);
      store(tile.out + r * tile.ldo + v * kLanes, product);
    }
}

#if !defined(QINCO_CPU_avx512)  // which takes this form with VNNI alone
template <int kRows>
[[gnu::noinline]] void multiply_pairs(const Int16Tile& tile) {
  IntVec sum[kRows][kTileVecs];
  clear(sum);
  const int32_t *x = tile.x, *w = tile.w;
  const int64_t pairs = tile.pairs;
  for (int64_t p = 0; p < pairs; ++p, w += kTileCols) {
    const IntVec columns[kTileVecs] = {load(w), load(w + kLanes)};
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const IntVec pair(x[r * pairs + p]);
#pragma GCC unroll 2
      for (int v = 0; v < kTileVecs; ++v) sum[r][v] = sum[r][v] + dot_pairs(pair, columns[v]);
    }
  }
  store_products(sum, tile);
}
#endif

// The same on machines that have VNNI; written again, because code for VNNI cannot be inlined into a loop that is
// compiled for other machines too.
template <int kRows>
[[gnu::noinline]] QINCO_VNNI_TARGET void multiply_pairs_vnni(const Int16Tile& tile) {
  IntVec sum[kRows][kTileVecs];
  clear(sum);
  const int32_t *x = tile.x, *w = tile.w;
  const int64_t pairs = tile.pairs;
  for (int64_t p = 0; p < pairs; ++p, w += kTileCols) {
    const IntVec columns[kTileVecs] = {load(w), load(w + kLanes)};
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const IntVec pair(x[r * pairs + p]);
#pragma GCC unroll 2
      for (int v = 0; v < kTileVecs; ++v) sum[r][v] = IntVec(QINCO_VNNI_DOT_PAIRS(sum[r][v].v, pair.v, columns[v].v));
    }
  }
  store_products(sum, tile);
}

/// `rows` rows, at most kRows.
template <int kRows = kTileRows>
void multiply_rows(int rows, const Int16Tile& tile, [[maybe_unused]] bool vnni) {
  if constexpr (kRows > 1)
    if (rows < kRows) return multiply_rows<kRows - 1>(rows, tile, vnni);
#if !defined(QINCO_CPU_avx512)
  if (!vnni) return multiply_pairs<kRows>(tile);
#endif
  multiply_pairs_vnni<kRows>(tile);
}

/// y's elements [columns] at column j of row i, of the products [kTileCols].
inline void finish_row(const Linear<float>& l, int64_t i, int64_t j, int64_t columns, const float* products) {
  float* const y = l.y + i * l.ldy + j;
  const float* const residual = l.residual ? l.residual + i * l.ldr + j : nullptr;
  for_lanes(0, columns, [&](int64_t c, auto lanes) {
    Vec out = load(products + c);
    if (l.accumulate) out = out + lanes.get(y + c);
    if (residual) out = out + lanes.get(residual + c);
    if (l.relu) out = max(Vec(0.0f), out);
    lanes.put(y + c, out);
  });
}

/// Rows [first, first + m) of y, from those of x as pairs [m][pairs] and their lengths [m].
inline void int16_multiply(const Context& context, const Linear<float>& l, int64_t first, int64_t m, const int32_t* x,
                           const float* row_lengths) {
  const int64_t pairs = pairs_of(l.k), panels = larger(1, kInt16WeightPairs / larger(1, pairs * kTileCols));
  const auto* const w = reinterpret_cast<const int32_t*>(l.packed);
  const float* const column_factors = l.packed + int16_columns(l.n) * pairs;
  const bool vnni = has_vnni(), plain = !l.accumulate && !l.residual && !l.relu;
  for (int64_t j = 0; j < l.n; j += panels * kTileCols) {
    const int64_t n = smaller(panels * kTileCols, l.n - j);
    Tasks(m, n, pairs).for_each(context, [&](int64_t row, int64_t row_end, int64_t column, int64_t column_end, int) {
      alignas(64) float products[kTileRows * kTileCols];
      for (int64_t i = row; i < row_end; i += kTileRows) {
        const int rows = static_cast<int>(smaller(kTileRows, row_end - i));
        for (int64_t c = j + column; c < j + column_end; c += kTileCols) {
          const int64_t columns = smaller(kTileCols, j + column_end - c);
          float* const y = l.y + (first + i) * l.ldy + c;
          for (int r = 0; r < rows; ++r) __builtin_prefetch(y + r * l.ldy, 1);
          const bool direct = plain && columns == kTileCols;
          multiply_rows(rows,
                        {pairs, x + i * pairs, w + c * pairs, row_lengths + i, column_factors + c,
                         direct ? y : products, direct ? l.ldy : kTileCols},
                        vnni);
          if (direct) continue;
          for (int r = 0; r < rows; ++r) finish_row(l, first + i + r, c, columns, products + r * kTileCols);
        }
      }
    });
  }
}

inline void int16_linear(const Context& context, const Linear<float>& l) {
  const int64_t pairs = pairs_of(l.k);
  const int64_t together = smaller(l.m, larger(kTileRows, kInt16RowPairs / larger(1, pairs) / kTileRows * kTileRows));
  ScratchFrame frame(context);
  int32_t* const x = frame.get<int32_t>(together * pairs);
  float* const lengths = frame.get<float>(together);
  for (int64_t first = 0; first < l.m; first += together) {
    const int64_t m = smaller(together, l.m - first);
    parallel_for(context, m, row_grain(l.k), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) lengths[i] = to_int16(l.k, l.x + (first + i) * l.ldx, x + i * pairs);
    });
    int16_multiply(context, l, first, m, x, lengths);
  }
}

QINCO_CPU_NAMESPACE_END
