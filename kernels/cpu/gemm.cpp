// Matrix product after Goto & van de Geijn (2008), with the roles of a BLIS-style kernel fitted to row-major operands:
// a block of B is packed once for all threads and stays in L2; A is read in place where its rows are contiguous (a tile
// reads each cache line of it whole) and do not alias, else packed or copied per task; every tile of C is finished in
// registers.
#include "kernels/cpu/few_rows.h"
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

/// Where a task keeps what it does not read of A in place: packed panels of a transposed A, or a copy of the panel at
/// hand where a tile's rows alias.
class RowScratch {
 public:
  RowScratch() = default;
  /// For passes over at most n columns and k steps.
  RowScratch(const Gemm<float>& g, int64_t n, int64_t k, const Context& context, ScratchFrame& frame) {
    if (g.trans_a)
      size_ = blocks_of(Tasks(g.m, n, k).rows(), kTileRows) * row_panel_size(k);
    else if (rows_alias(g.m, g.lda))
      size_ = copied_rows_size(k);
    if (size_ > 0) data_ = frame.get<float>(size_ * context.threads);
  }

  float* of(int worker) const { return data_ ? data_ + worker * size_ : nullptr; }

 private:
  float* data_ = nullptr;
  int64_t size_ = 0;  // of one worker
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

/// C's rows [row, row_end) x columns [column, column_end). `scratch` (RowScratch::of) is null where A is read in place.
void run_task(const Pass& pass, int64_t row, int64_t row_end, int64_t column, int64_t column_end, float* scratch) {
  const Gemm<float>& g = pass.g;
  const bool packs = scratch && g.trans_a, copies = scratch && !g.trans_a;
  if (packs) pack_rows(row_end - row, pass.k, g.a + pass.p * g.lda + row, g.lda, scratch);
  const int64_t tiles = blocks_of(column_end - column, kTileCols);
  for (int64_t i = row; i < row_end; i += kTileRows) {
    const int64_t next = smaller(row_end, i + kTileRows), after = smaller(row_end, next + kTileRows);
    const int rows = static_cast<int>(next - i);
    const PackedRows packed{packs ? scratch + (i - row) / kTileRows * row_panel_size(pass.k) : nullptr};
    StridedRows in_place =
        g.trans_a ? StridedRows{g.a + pass.p * g.lda + i, 1, g.lda} : StridedRows{g.a + i * g.lda + pass.p, g.lda, 1};
    if (copies) in_place = copy_rows(rows, pass.k, in_place, scratch);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t j = column + t * kTileCols;
      if (!g.trans_a) prefetch_rows(pass, next, after, t, tiles);
      if (packs)
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

void run_pass(const Context& context, const Pass& pass, const Tasks& tasks, const RowScratch& scratch) {
  tasks.for_each(context, [&](int64_t row, int64_t row_end, int64_t column, int64_t column_end, int worker) {
    run_task(pass, row, row_end, pass.j + column, pass.j + column_end, scratch.of(worker));
  });
}

/// C for few rows and a transposed B that is_dot leaves: each panel of B is used while L1 has it.
void few_rows_packed(const Context& context, const Gemm<float>& g) {
  ScratchFrame frame(context);
  const int64_t size = g.k * kTileCols;
  float* const scratch = frame.get<float>(size * context.threads);
  const StridedRows a = g.trans_a ? StridedRows{g.a, 1, g.lda} : StridedRows{g.a, g.lda, 1};
  const int64_t grain = larger(1, kFewWork / larger(1, g.m * size)) * kTileCols;
  parallel_for(context, g.n, grain, [&](int64_t begin, int64_t end, int worker) {
    float* const packed = scratch + worker * size;
    for (int64_t j = begin; j < end; j += kTileCols) {
      const int64_t columns = smaller(kTileCols, end - j);
      pack_cols_transposed(columns, g.k, g.b + j * g.ldb, g.ldb, packed);
      run_tile<kTileRows>({g, 0, g.k, j, columns, packed}, a, static_cast<int>(g.m), 0, j, j + columns);
    }
  });
}

void gemm(const Context& context, const Gemm<float>& g);

/// One column is one row of the transposed product. Values with gaps between them are brought together first: the order
/// of sums is to depend on the sizes alone.
void one_column(const Context& context, const Gemm<float>& g) {
  Gemm<float> row = g;
  row.n = g.m, row.m = 1;
  row.a = g.b, row.lda = g.ldb, row.trans_a = !g.trans_b;
  row.b = g.a, row.ldb = g.lda, row.trans_b = !g.trans_a;
  if (g.ldc == 1 && !g.bias && (!g.residual || g.ldr == 1)) return gemm(context, row);
  ScratchFrame frame(context);
  float *const c = frame.get<float>(g.m), *const added = frame.get<float>(g.m);
  for (int64_t i = 0; i < g.m; ++i) {
    if (g.accumulate) c[i] = g.c[i * g.ldc];
    added[i] = (g.bias ? *g.bias : 0) + (g.residual ? g.residual[i * g.ldr] : 0);
  }
  row.c = c, row.bias = nullptr, row.residual = g.bias || g.residual ? added : nullptr;
  gemm(context, row);
  for (int64_t i = 0; i < g.m; ++i) g.c[i * g.ldc] = c[i];
}

void gemm(const Context& context, const Gemm<float>& g) {
  if (g.m <= 0 || g.n <= 0) return;
  if (g.n == 1 && g.m > 1) return one_column(context, g);
  if (g.m <= kTileRows && g.trans_b) return is_dot(g) ? dot_product(context, g) : few_rows_packed(context, g);
  if (g.m == 1 && !g.trans_b) return one_row(context, g);
  ScratchFrame frame(context);
  if (g.m <= kTileRows && !g.trans_b) {  // one row of tiles reads B once: packing it would cost more than it saves
    const RowScratch scratch = g.trans_a ? RowScratch() : RowScratch(g, g.n, g.k, context, frame);
    run_pass(context, {g, 0, g.k, 0, g.n, nullptr}, Tasks(g.m, g.n, g.k), scratch);
    return;
  }
  const Blocks blocks(g.n, g.k);
  float* const packed = frame.get<float>(blocks.n * blocks.k);
  const RowScratch scratch(g, blocks.n, blocks.k, context, frame);
  blocks.for_each(g.n, g.k, [&](int64_t j, int64_t n, int64_t p, int64_t k) {
    const Pass pass{g, p, k, j, n, packed};
    pack_b(context, pass, packed);
    run_pass(context, pass, Tasks(g.m, n, k), scratch);
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
  const Blocks blocks(l.n, l.k);
  ScratchFrame frame(context);
  const RowScratch scratch(g, blocks.n, blocks.k, context, frame);
  blocks.for_each(l.n, l.k, [&](int64_t j, int64_t n, int64_t p, int64_t k) {
    const float* const block = l.packed + j * l.k + p * padded(n);
    run_pass(context, {g, p, k, j, n, block}, Tasks(l.m, n, k), scratch);
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
