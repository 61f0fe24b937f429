// Matrix product after Goto & van de Geijn (2008), with the roles of a BLIS-style kernel fitted to row-major operands:
// a block of B is packed once for all threads and stays in L2; A is read in place where its rows are contiguous (a tile
// reads each cache line of it whole), else packed per task; every tile of C is finished in registers.
#include "kernels/cpu/int16_linear.h"
#include "kernels/cpu/microkernel.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/store_tile.h"
#include "kernels/cpu/tile_tasks.h"
#include "kernels/families.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

// A block of B is kBlockK x kBlockN: 768 KB (AVX-512 machines have 1 MB of L2 or more) or 256 KB.
#if defined(QINCO_CPU_avx512)
constexpr int64_t kBlockK = 384;
constexpr int64_t kBlockN = 16 * kTileCols;
#else
constexpr int64_t kBlockK = 256;
constexpr int64_t kBlockN = 16 * kTileCols;
#endif
constexpr int64_t kPackFloats = 1 << 14;  // floats packed per task
constexpr int64_t kLine = 16;             // floats per cache line

template <int kRows, int kVecs, class A>
__attribute__((noinline)) void tile(int64_t k, A a, Columns<kVecs> b, float* c, int64_t ldc, int tail,
                                    const Finish& finish) {
  Vec acc[kRows][kVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v) __builtin_prefetch(c + r * ldc + v * kLanes, 1);
  accumulate(k, a, b, acc);
  store_tile(acc, c, ldc, tail, finish);
}

/// A block of k of a block of columns: the part of the product between two packings of B.
struct Pass {
  const Gemm<float>& g;
  int64_t p, k;         // this block of k: [p, p + k)
  int64_t j, n;         // these columns: [j, j + n)
  const float* packed;  // B's panels, or null to read B in place

  Finish finish(int64_t row, int64_t column) const {
    const bool first = p == 0, last = p + k >= g.k;
    return {!first || g.accumulate, last && g.relu, first && g.bias ? g.bias + column : nullptr,
            first && g.residual ? g.residual + row * g.ldr + column : nullptr, g.ldr};
  }
};

/// The tile at (row, column) of C, with as many rows as are left, up to kRows.
template <int kRows, class A>
void run_tile(const Pass& pass, A a, int rows, int64_t row, int64_t column, int64_t column_end) {
  if constexpr (kRows > 1)
    if (rows < kRows) return run_tile<kRows - 1>(pass, a, rows, row, column, column_end);
  const Gemm<float>& g = pass.g;
  const int vecs = panel_vecs(column, column_end);
  const int tail = static_cast<int>(smaller(kLanes, column_end - column - (vecs - 1) * kLanes));
  const float* const b = pass.packed ? pass.packed + (column - pass.j) * pass.k : g.b + pass.p * g.ldb + column;
  const int64_t step = pass.packed ? vecs * kLanes : g.ldb;
  const int width = pass.packed ? kLanes : tail;
  float* const c = g.c + row * g.ldc + column;
  const Finish finish = pass.finish(row, column);
  if (vecs == 2)
    tile<kRows, 2>(pass.k, a, Columns<2>{b, step, width}, c, g.ldc, tail, finish);
  else
    tile<kRows, 1>(pass.k, a, Columns<1>{b, step, width}, c, g.ldc, tail, finish);
}

/// Fetches tile number `tile` of `tiles`' share of A's rows [row, row_end) ahead of their use, where A is read in
/// place: so many short streams are too many for the hardware's own prefetchers.
void prefetch_rows(const Pass& pass, int64_t row, int64_t row_end, int64_t tile, int64_t tiles) {
  const int64_t lines = blocks_of(pass.k, kLine), share = blocks_of(lines, tiles);
  const int64_t end = smaller(lines, (tile + 1) * share);
  for (int64_t line = tile * share; line < end; ++line)
    for (int64_t i = row; i < row_end; ++i) __builtin_prefetch(pass.g.a + i * pass.g.lda + pass.p + line * kLine);
}

/// C's rows [row, row_end) x columns [column, column_end). `scratch` holds packed panels of a transposed A, or is null.
void run_task(const Pass& pass, int64_t row, int64_t row_end, int64_t column, int64_t column_end, float* scratch) {
  const Gemm<float>& g = pass.g;
  if (scratch) pack_rows(row_end - row, pass.k, g.a + pass.p * g.lda + row, g.lda, scratch);
  const int64_t tiles = blocks_of(column_end - column, kTileCols);
  for (int64_t i = row; i < row_end; i += kTileRows) {
    const int64_t next = smaller(row_end, i + kTileRows), after = smaller(row_end, next + kTileRows);
    const int rows = static_cast<int>(next - i);
    const PackedRows packed{scratch ? scratch + (i - row) / kTileRows * row_panel_size(pass.k) : nullptr};
    const StridedRows in_place =
        g.trans_a ? StridedRows{g.a + pass.p * g.lda + i, 1, g.lda} : StridedRows{g.a + i * g.lda + pass.p, g.lda, 1};
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t j = column + t * kTileCols;
      if (!g.trans_a) prefetch_rows(pass, next, after, t, tiles);
      if (scratch)
        run_tile<kTileRows>(pass, packed, rows, i, j, column_end);
      else
        run_tile<kTileRows>(pass, in_place, rows, i, j, column_end);
    }
  }
}

void pack_b(const Context& context, const Pass& pass, float* packed) {
  const Gemm<float>& g = pass.g;
  const int64_t grain = larger(1, kPackFloats / larger(1, pass.k * kTileCols)) * kTileCols;
  parallel_for(context, pass.n, grain, [&](int64_t begin, int64_t end, int) {
    float* const out = packed + begin * pass.k;
    const int64_t column = pass.j + begin;
    if (g.trans_b)
      pack_cols_transposed(end - begin, pass.k, g.b + column * g.ldb + pass.p, g.ldb, out);
    else
      pack_cols(end - begin, pass.k, g.b + pass.p * g.ldb + column, g.ldb, out);
  });
}

void run_pass(const Context& context, const Pass& pass, const Tasks& tasks, float* scratch, int64_t scratch_size) {
  tasks.for_each(context, [&](int64_t row, int64_t row_end, int64_t column, int64_t column_end, int worker) {
    run_task(pass, row, row_end, pass.j + column, pass.j + column_end,
             scratch ? scratch + worker * scratch_size : nullptr);
  });
}

/// How B is cut into blocks, by the sizes alone.
struct Blocks {
  int64_t k, n;  // largest block

  Blocks(int64_t all_n, int64_t all_k) {
    const int64_t k_blocks = larger(1, blocks_of(all_k, kBlockK));
    k = larger(1, blocks_of(blocks_of(all_k, k_blocks), kLanes)) * kLanes;
    n = smaller(kBlockN, blocks_of(all_n, kTileCols) * kTileCols);
  }

  /// body(j, n, p, k) for every block of columns [j, j + n) and inner range [p, p + k). k = 0 still takes one pass, for
  /// the epilogue.
  template <class Body>
  void for_each(int64_t all_n, int64_t all_k, Body&& body) const {
    for (int64_t j = 0; j < all_n; j += n)
      for (int64_t p = 0; p < larger(1, all_k); p += k) body(j, smaller(n, all_n - j), p, smaller(k, all_k - p));
  }
};

// --- few rows: every element of B is used a few times only, so nothing is packed. The sums are those of the tiles.
constexpr int64_t kRowSteps = 8;                // rows of B taken together
constexpr int64_t kRowColumns = 64 * kLanes;    // columns whose sums stay in L1 meanwhile
constexpr int64_t kFewWork = int64_t{1} << 18;  // multiply-adds that are worth a task
constexpr int64_t kAliased = 1024;              // rows that many floats apart compete for the same lines of L1

/// In an unrolled loop: GCC 12 would otherwise keep the address of every element, on the stack.
QINCO_INLINE void step_on(StridedRows& rows) {
  rows.advance();
  asm("" : "+r"(rows.data));
}

/// acc[r][v] += a whole square of B's columns, stored as rows ldb apart.
template <int kRows, int kVecs>
QINCO_INLINE void add_square(StridedRows a, const float* b, int64_t ldb, int v, Vec (&acc)[kRows][kVecs]) {
  Vec square[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) square[i] = load(b + i * ldb);
  transpose(square);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) acc[r][v] = fma(Vec(a.at(r)), square[i], acc[r][v]);
    step_on(a);
  }
}

/// Not inlined into every tile, most of which it would be. square = the transpose of `columns` rows of `steps` values,
/// zero beyond them.
__attribute__((noinline)) void transpose_part(const float* b, int64_t ldb, int64_t columns, int64_t steps,
                                              float* square) {
  Vec x[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) x[i] = i < columns ? load_partial(b + i * ldb, steps) : Vec(0.0f);
  transpose(x);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) store(square + i * kLanes, x[i]);
}

/// acc[r][v] += what is there of a square: `columns` columns, `steps` steps.
template <int kRows, int kVecs>
QINCO_INLINE void add_part(StridedRows a, const float* b, int64_t ldb, int64_t columns, int64_t steps, int v,
                           Vec (&acc)[kRows][kVecs]) {
  alignas(64) float square[kLanes * kLanes];
  transpose_part(b, ldb, columns, steps, square);
  for (int64_t i = 0; i < steps; ++i) {
    const Vec row = load(square + i * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) acc[r][v] = fma(Vec(a.at(r)), row, acc[r][v]);
    a.advance();
  }
}

/// A tile of C whose columns of B are stored as rows.
struct TransposedTile {
  int64_t k;
  StridedRows a;
  const float* b;
  int64_t ldb, columns;
  float* c;
  int64_t ldc;
};

/// Transposes in registers, a square at a time.
template <int kRows, int kVecs>
__attribute__((noinline)) void transposed_tile(const TransposedTile& tile, const Finish& finish) {
  const int64_t k = tile.k, ldb = tile.ldb;
  const StridedRows a = tile.a;
  Vec acc[kRows][kVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v) acc[r][v] = Vec(0.0f);
  for (int64_t line = 0; line < k; line += kLine) {  // whole cache lines
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      const float* const columns = tile.b + v * kLanes * ldb;
      const int64_t there = smaller(kLanes, tile.columns - v * kLanes);
      StridedRows ahead{columns + kVecs * kLanes * ldb + line, 1, ldb};
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {  // of the next tile: so many short streams are too many for the hardware
        __builtin_prefetch(ahead.data, 0, 2);
        step_on(ahead);
      }
#pragma GCC unroll 2
      for (int64_t p = line; p < line + kLine; p += kLanes) {
        const StridedRows at{a.data + p * a.step, a.row_stride, a.step};
        if (p + kLanes <= k && there == kLanes) [[likely]]
          add_square(at, columns + p, ldb, v, acc);
        else if (p < k)
          add_part(at, columns + p, ldb, there, smaller(kLanes, k - p), v, acc);
      }
    }
  }
  store_tile(acc, tile.c, tile.ldc, static_cast<int>(tile.columns - (kVecs - 1) * kLanes), finish);
}

/// With `rows` rows, up to kRows.
template <int kRows = kTileRows>
void transposed_rows(int rows, const TransposedTile& tile, const Finish& finish) {
  if constexpr (kRows > 1)
    if (rows < kRows) return transposed_rows<kRows - 1>(rows, tile, finish);
  if constexpr (kRows <= kTileRows / 2)
    if (tile.columns > kLanes) return transposed_tile<kRows, kTileVecs>(tile, finish);
  transposed_tile<kRows, 1>(tile, finish);
}

/// C for at most kTileRows rows and a transposed B.
void few_rows_transposed(const Context& context, const Gemm<float>& g) {
  const int64_t width = g.m <= kTileRows / 2 ? kTileCols : kLanes;
  const int64_t k_block = Blocks(g.n, g.k).k;
  const int64_t grain = larger(1, kFewWork / larger(1, g.m * kTileCols * g.k)) * kTileCols;
  parallel_for(context, g.n, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t j = begin; j < end; j += width) {
      const int64_t columns = smaller(width, end - j);
      for (int64_t p = 0; p < larger(1, g.k); p += k_block) {
        const int64_t k = smaller(k_block, g.k - p);
        const StridedRows a = g.trans_a ? StridedRows{g.a + p * g.lda, 1, g.lda} : StridedRows{g.a + p, g.lda, 1};
        transposed_rows(static_cast<int>(g.m), {k, a, g.b + j * g.ldb + p, g.ldb, columns, g.c + j, g.ldc},
                        Pass{g, p, k, 0, g.n, nullptr}.finish(0, j));
      }
    }
  });
}

/// C for one row and B as it lies: rows of B are read along, some at a time, into sums of many columns.
void one_row(const Context& context, const Gemm<float>& g) {
  const int64_t step = g.trans_a ? g.lda : 1;
  const int64_t grain = blocks_of(larger(1, kFewWork / larger(1, g.k)), kLanes) * kLanes;
  parallel_for(context, g.n, smaller(grain, kRowColumns), [&](int64_t begin, int64_t end, int) {
    alignas(64) float sums[kRowColumns + kLanes];
    for (int64_t first = begin; first < end; first += kRowColumns) {
      const int64_t columns = smaller(kRowColumns, end - first);
      for (int64_t j = 0; j < columns; j += kLanes) store(sums + j, Vec(0.0f));
      for (int64_t p = 0; p < g.k; p += kRowSteps) {
        const int64_t steps = smaller(kRowSteps, g.k - p);
        for (int64_t j = 0; j < columns; j += kLanes) {
          const float* b = g.b + p * g.ldb + first + j;
          const float* a = g.a + p * step;
          const bool whole = columns - j >= kLanes;
          Vec sum = load(sums + j);
          for (int64_t i = 0; i < steps; ++i, a += step, b += g.ldb)
            sum = fma(Vec(*a), whole ? load(b) : load_partial(b, columns - j), sum);
          store(sums + j, sum);
        }
      }
      const Finish all = Pass{g, 0, g.k, 0, g.n, nullptr}.finish(0, first);
      for (int64_t j = 0; j < columns; j += kLanes) {
        Vec acc[1][1] = {{load(sums + j)}};
        const Finish finish{all.accumulate, all.relu, all.bias ? all.bias + j : nullptr,
                            all.residual ? all.residual + j : nullptr, all.ldr};
        store_tile(acc, g.c + first + j, g.ldc, static_cast<int>(smaller(kLanes, columns - j)), finish);
      }
    }
  });
}

/// One column is one row of the transposed product, where its values lie one after the other. Not where that would cut
/// k in other places: the order of sums is to depend on the sizes alone.
bool is_column(const Gemm<float>& g) {
  const bool same_order = g.k <= kBlockK || (!g.trans_a && (g.m > kTileRows || g.trans_b));
  return g.n == 1 && g.m > 1 && same_order && g.ldc == 1 && !g.bias && (!g.residual || g.ldr == 1);
}

Gemm<float> transposed(Gemm<float> g) {
  g.n = g.m, g.m = 1;
  const Gemm<float> from = g;
  g.a = from.b, g.lda = from.ldb, g.trans_a = !from.trans_b;
  g.b = from.a, g.ldb = from.lda, g.trans_b = !from.trans_a;
  return g;
}

void gemm(const Context& context, const Gemm<float>& g) {
  if (g.m <= 0 || g.n <= 0) return;
  if (is_column(g)) return gemm(context, transposed(g));
  if (g.m <= kTileRows && g.trans_b && g.ldb % kAliased != 0) return few_rows_transposed(context, g);
  if (g.m == 1 && !g.trans_b) return one_row(context, g);
  if (g.m <= kTileRows && !g.trans_b) {  // one row of tiles reads B once: packing it would cost more than it saves
    run_pass(context, {g, 0, g.k, 0, g.n, nullptr}, Tasks(g.m, g.n, g.k), nullptr, 0);
    return;
  }
  const Blocks blocks(g.n, g.k);
  ScratchFrame frame(context);
  float* const packed = frame.get<float>(blocks.n * blocks.k);
  const int64_t rows = Tasks(g.m, blocks.n, blocks.k).rows();
  const int64_t scratch_size = blocks_of(rows, kTileRows) * row_panel_size(blocks.k);
  float* const scratch = g.trans_a ? frame.get<float>(scratch_size * context.threads) : nullptr;
  blocks.for_each(g.n, g.k, [&](int64_t j, int64_t n, int64_t p, int64_t k) {
    const Pass pass{g, p, k, j, n, packed};
    pack_b(context, pass, packed);
    run_pass(context, pass, Tasks(g.m, n, k), scratch, scratch_size);
  });
}

// --- the product with packed weights: the same passes over blocks that stay packed, one after the other.
int64_t padded(int64_t n) {
  return blocks_of(n, kLanes) * kLanes;
}

int64_t linear_packed_size(int64_t n, int64_t k, Precision precision) {
  return in_int16(precision) ? int16_packed_size(n, k) : padded(n) * k;
}

void linear_pack(const Context& context, int64_t n, int64_t k, const float* w, int64_t ldw, Precision precision,
                 float* packed) {
  if (in_int16(precision)) return int16_pack(context, n, k, w, ldw, packed);
  Gemm<float> g;
  g.n = n, g.k = k;
  g.b = w, g.ldb = ldw, g.trans_b = true;
  Blocks(n, k).for_each(n, k, [&](int64_t j, int64_t columns, int64_t p, int64_t inner) {
    float* const block = packed + j * k + p * padded(columns);
    pack_b(context, {g, p, inner, j, columns, block}, block);
  });
}

void linear(const Context& context, const Linear<float>& l) {
  if (l.m <= 0 || l.n <= 0) return;
  if (in_int16(l.precision)) return int16_linear(context, l);
  Gemm<float> g;
  g.m = l.m, g.n = l.n, g.k = l.k;
  g.a = l.x, g.lda = l.ldx;
  g.c = l.y, g.ldc = l.ldy, g.accumulate = l.accumulate;
  g.residual = l.residual, g.ldr = l.ldr, g.relu = l.relu;
  Blocks(l.n, l.k).for_each(l.n, l.k, [&](int64_t j, int64_t n, int64_t p, int64_t k) {
    const float* const block = l.packed + j * l.k + p * padded(n);
    run_pass(context, {g, p, k, j, n, block}, Tasks(l.m, n, k), nullptr, 0);
  });
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_gemm(Table<float>& t) {
  t.gemm = gemm;
}

void fill_linear(Table<float>& t) {
  t.linear_packed_size = linear_packed_size;
  t.linear_pack = linear_pack;
  t.linear = linear;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
