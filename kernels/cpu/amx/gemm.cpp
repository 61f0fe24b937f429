// The matrix product at Precision::fast on the matrix unit: operands in bfloat16, sums in float.
//
// As in float (kernels/cpu/gemm.cpp), a block of B is packed once, by all threads, and stays in L2. A is packed 32 rows
// at a time by the thread that multiplies them: it has to be rounded anyway.
#include "kernels/cpu/amx/finish.h"
#include "kernels/cpu/amx/pack.h"
#include "kernels/cpu/tile_tasks.h"
#include "kernels/families.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kMostInner = 1024, kMostColumns = 512;  // of a block of B: 1 MB
constexpr int64_t kLeast = 16;  // m, n and k from which on whole blocks are worth their padding
constexpr TileSize kTileSize{kBlock, kBlock, int64_t{1} << 21};

// A block of k of a block of columns: the part of the product between two packings of B.
struct Pass {
  const Gemm<float>& g;
  int64_t p, k;  // this block of k: [p, p + k)
  int64_t j, n;  // these columns: [j, j + n)
  Bf16* packed;  // [n/32][k/32] pairs of tiles

  int64_t steps() const { return blocks(k); }
  Output output() const {
    const bool first = p == 0, last = p + k >= g.k;
    return {g.m,
            g.n,
            g.c,
            g.ldc,
            !first || g.accumulate,
            first ? g.bias : nullptr,
            first ? g.residual : nullptr,
            g.ldr,
            last && g.relu};
  }
};

// `rows` of 16 and `values` of 32 are there, the others are zero; `x` is stored transposed, [values][rows]. As a tile
// of A, a row of 32 values each.
void pack_transposed_a(const float* x, int64_t ld, int64_t rows, int64_t values, Bf16* out) {
  Vec half[2][16];
  for (int64_t i = 0; i < kBlock; ++i) half[i / 16][i % 16] = i < values ? load_partial(x + i * ld, rows) : Vec(0.0f);
  transpose(half[0]);
  transpose(half[1]);
  for (int64_t i = 0; i < 16; ++i) _mm512_store_si512(out + i * kBlock, to_bf16(half[0][i], half[1][i]));
}

// The same of B stored [values][columns]: tile row r holds the values 2r and 2r + 1 of each of the 16 columns.
void pack_plain_b(const float* x, int64_t ld, int64_t columns, int64_t values, Bf16* out) {
  for (int64_t i = 0; i < kBlock; i += 2) {
    const Vec even = i < values ? load_partial(x + i * ld, columns) : Vec(0.0f);
    const Vec odd = i + 1 < values ? load_partial(x + (i + 1) * ld, columns) : Vec(0.0f);
    const __m512i rounded = to_bf16(even, odd);
    const __m512i first = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(rounded));
    const __m512i second = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(rounded, 1));
    _mm512_store_si512(out + i * kLanes, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
  }
}

// How many of 16 there are where `left` are left.
constexpr int64_t of_sixteen(int64_t left) {
  return larger(0, smaller(16, left));
}

void pack_b(const Context& context, const Pass& pass) {
  const Gemm<float>& g = pass.g;
  parallel_for(context, blocks(pass.n) * pass.steps(), 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t q = pass.p + i % pass.steps() * kBlock, q_end = pass.p + pass.k;
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t column = pass.j + i / pass.steps() * kBlock + half * 16;
        Bf16* const out = pass.packed + i * kPairValues + half * kPairValues / 2;
        if (g.trans_b)
          pack_tile(g.b, g.ldb, g.n, q_end, column, q, out, nullptr);
        else
          pack_plain_b(g.b + q * g.ldb + column, g.ldb, of_sixteen(g.n - column), q_end - q, out);
      }
    }
  });
}

// 32 rows of A from `row` on, as [k/32] pairs of tiles.
void pack_a(const Pass& pass, int64_t row, Bf16* out) {
  const Gemm<float>& g = pass.g;
  for (int64_t q = 0; q < pass.k; q += kBlock, out += kPairValues) {
    if (g.trans_a) {
      const float* const x = g.a + (pass.p + q) * g.lda + row;
      pack_transposed_a(x, g.lda, of_sixteen(g.m - row), pass.k - q, out);
      pack_transposed_a(x + 16, g.lda, of_sixteen(g.m - row - 16), pass.k - q, out + kPairValues / 2);
    } else {
      for (int64_t i = 0; i < kBlock; ++i) {
        Vec low(0.0f), high(0.0f);
        if (row + i < g.m) load_row(g.a + (row + i) * g.lda + pass.p + q, pass.k - q, low, high);
        _mm512_store_si512(out + i * kBlock, to_bf16(low, high));
      }
    }
  }
}

int64_t task_scratch(int64_t k) {
  return 2 * kBlockFloats + blocks(k) * kPairValues / 2;
}

// C's rows [row, row_end) x columns [column, column_end).
void run_task(const Pass& pass, int64_t row, int64_t row_end, int64_t column, int64_t column_end, float* scratch) {
  const TileScope tiles;
  const Output output = pass.output();
  float* const block[2] = {scratch, scratch + kBlockFloats};
  Bf16* const a = reinterpret_cast<Bf16*>(scratch + 2 * kBlockFloats);
  const int64_t steps = pass.steps(), share = blocks_of(kRowSlices, steps);
  Finish finish;
  int64_t side = 0;
  for (int64_t i = row; i < row_end; i += kBlock) {
    pack_a(pass, i, a);
    for (int64_t j = column; j < column_end; j += kBlock, side = 1 - side) {
      const Bf16* const b = pass.packed + (j - pass.j) / kBlock * steps * kPairValues;
      zero_accumulators();
      for (int64_t k = 0; k < steps; ++k) {
        multiply_step(a + k * kPairValues, b + k * kPairValues);
        for (int64_t slice = 0; slice < share; ++slice) finish.do_slice();
      }
      finish.do_all();
      store_accumulators(block[side]);
      finish = Finish(output, block[side], i, j);
    }
  }
  finish.do_all();
}

void gemm(const Context& context, const Gemm<float>& g) {
  if (g.precision != Precision::fast || g.m < kLeast || g.n < kLeast || g.k < kLeast)
    return table<float>(Isa::avx512).gemm(context, g);
  const int64_t most_inner = smaller(kMostInner, g.k), scratch_size = task_scratch(most_inner);
  ScratchFrame frame(context);
  Bf16* const packed = frame.get<Bf16>(blocks(smaller(kMostColumns, g.n)) * blocks(most_inner) * kPairValues);
  float* const scratch = frame.get<float>(context.threads * scratch_size);
  for (int64_t j = 0; j < g.n; j += kMostColumns) {
    for (int64_t p = 0; p < g.k; p += kMostInner) {
      const Pass pass{g, p, smaller(kMostInner, g.k - p), j, smaller(kMostColumns, g.n - j), packed};
      pack_b(context, pass);
      Tasks(g.m, pass.n, pass.k, kTileSize)
          .for_each(context, [&](int64_t row, int64_t row_end, int64_t column, int64_t column_end, int worker) {
            run_task(pass, row, row_end, j + column, j + column_end, scratch + worker * scratch_size);
          });
    }
  }
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_gemm(Table<float>& t) {
  t.gemm = gemm;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
