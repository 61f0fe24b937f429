// 32 rows of y = x W^T at near-float precision: both operands are split into two bfloat16 parts and the three larger
// partial products are summed in float. What is left out is below 2^-16 of |x| |W|, term by term and with random signs.
#pragma once

#include "kernels/cpu/amx/pack.h"
#include "kernels/kernels.h"

QINCO_CPU_NAMESPACE_BEGIN

// Up to 32 rows of x [.,k] as A blocks of both parts; absent rows and columns are zero.
inline void split_rows(const float* x, int64_t ldx, int64_t rows, int64_t k, Bf16* first, Bf16* second) {
  for (int64_t p = 0; p < blocks(k); ++p) {
    for (int64_t i = 0; i < kBlock; ++i) {
      Vec low(0.0f), high(0.0f);
      if (i < rows) load_row(x + i * ldx + p * kBlock, k - p * kBlock, low, high);
      const __m512i rounded = to_bf16(low, high);
      _mm512_store_si512(first + p * kPairValues + i * kBlock, rounded);
      _mm512_store_si512(second + p * kPairValues + i * kBlock, rounding_rest(low, high, rounded));
    }
  }
}

// A C block to 32 columns of y from column j on, with the epilogue.
inline void finish_block(const Linear<float>& l, const float* block, int64_t row, int64_t rows, int64_t column) {
  for (int half = 0; half < 2; ++half) {
    const int64_t j = column + half * kLanes, width = l.n - j < kLanes ? l.n - j : kLanes;
    if (width <= 0) return;
    for (int64_t i = 0; i < rows; ++i) {
      float* const out = l.y + (row + i) * l.ldy + j;
      Vec sum = load(block + (i / 16 * 2 + half) * kTileFloats + i % 16 * kLanes);
      if (l.accumulate) sum = sum + load_partial(out, width);
      if (l.residual) sum = sum + load_partial(l.residual + (row + i) * l.ldr + j, width);
      if (l.relu) sum = max(Vec(0.0f), sum);
      store_partial(out, sum, width);
    }
  }
}

// Floats of scratch for multiply_rows.
inline int64_t split_scratch(int64_t k) {
  return kBlockFloats + blocks(k) * kPairValues;
}

// Rows [row, row + rows) of y, at most 32, in a TileScope; `scratch` holds both parts of their A blocks, then a C
// block.
inline void multiply_rows(const Linear<float>& l, int64_t row, int64_t rows, float* scratch) {
  const int64_t steps = blocks(l.k), part = steps * kPairValues;
  float* const block = scratch;
  Bf16* const a = reinterpret_cast<Bf16*>(scratch + kBlockFloats);
  const Bf16* const b = reinterpret_cast<const Bf16*>(l.packed);
  const int64_t second = part_values(l.n, l.k);
  split_rows(l.x + row * l.ldx, l.ldx, rows, l.k, a, a + part);
  for (int64_t j = 0; j < blocks(l.n); ++j) {
    zero_accumulators();
    for (int64_t k = 0; k < steps; ++k) {
      const Bf16* const x = a + k * kPairValues;
      const Bf16* const w = b + (j * steps + k) * kPairValues;
      multiply_step(x, w + second);
      multiply_step(x + part, w);
      multiply_step(x, w);
    }
    store_accumulators(block);
    finish_block(l, block, row, rows, j * kBlock);
  }
}

// Blocks of 32 rows [begin, end) of y; the last may have fewer.
inline void multiply_blocks(const Linear<float>& l, int64_t begin, int64_t end, float* scratch) {
  for (int64_t i = begin; i < end; ++i) multiply_rows(l, i * kBlock, smaller(kBlock, l.m - i * kBlock), scratch);
}

QINCO_CPU_NAMESPACE_END
