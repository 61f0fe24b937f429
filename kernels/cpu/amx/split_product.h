// Rows of y = x W^T at near-float precision: both operands are split into two bfloat16 parts and the three larger
// partial products are summed in float. What is left out is below 2^-16 of |x| |W|, term by term and with random signs.
//
// As in screen.h, the vector unit works while the matrix unit does: splitting the next 32 rows of x, and the epilogue
// of the C block before, are done in slices between the products.
#pragma once

#include "kernels/cpu/amx/finish.h"
#include "kernels/cpu/amx/pack.h"
#include "kernels/kernels.h"

QINCO_CPU_NAMESPACE_BEGIN

// Splits 32 rows of x [.,k] from row `row` on into A blocks of both parts, slice by slice; absent rows and columns are
// zero.
class RowSplit {
 public:
  RowSplit() = default;
  RowSplit(const Linear<float>& linear, int64_t row, Bf16* first, Bf16* second)
      : x_(linear.x + row * linear.ldx),
        ldx_(linear.ldx),
        k_(linear.k),
        rows_(smaller(kBlock, linear.m - row)),
        left_(blocks(linear.k) * kRowSlices),
        first_(first),
        second_(second) {}

  int64_t slices() const { return left_; }
  QINCO_INLINE void do_slices(int64_t count) {
    for (; count > 0 && left_ > 0; --count, --left_) {
      for (int64_t i = row_; i < row_ + kRowSlice; ++i) {
        Vec low(0.0f), high(0.0f);
        if (i < rows_) load_row(x_ + i * ldx_ + column_, k_ - column_, low, high);
        const __m512i rounded = to_bf16(low, high);
        _mm512_store_si512(first_ + i * kBlock, rounded);
        _mm512_store_si512(second_ + i * kBlock, rounding_rest(low, high, rounded));
      }
      row_ += kRowSlice;
      if (row_ < kBlock) continue;
      row_ = 0;
      column_ += kBlock;
      first_ += kPairValues;
      second_ += kPairValues;
    }
  }

 private:
  const float* x_ = nullptr;
  int64_t ldx_ = 0, k_ = 0, rows_ = 0;
  int64_t row_ = 0, column_ = 0, left_ = 0;
  Bf16 *first_ = nullptr, *second_ = nullptr;
};

// Floats of scratch for multiply_blocks: two C blocks, and both parts of two times 32 rows.
inline int64_t split_scratch(int64_t k) {
  return 2 * kBlockFloats + 2 * blocks(k) * kPairValues;
}

// One inner step of the three partial products; tiles that two of them share are loaded once.
QINCO_INLINE void multiply_parts(const Bf16* x_first, const Bf16* x_second, const Bf16* w_first, const Bf16* w_second) {
  constexpr int64_t other = kPairValues / 2;
  multiply_step(x_first, w_second);
  tile_load<6>(w_first);
  tile_product<0, 4, 6>();
  tile_product<2, 5, 6>();
  tile_load<7>(w_first + other);
  tile_product<1, 4, 7>();
  tile_product<3, 5, 7>();
  tile_load<4>(x_second);
  tile_product<0, 4, 6>();
  tile_product<1, 4, 7>();
  tile_load<5>(x_second + other);
  tile_product<2, 5, 6>();
  tile_product<3, 5, 7>();
}

// Blocks of 32 rows, or columns.
struct Blocks {
  int64_t begin, end;
};

// The blocks of y in these rows and columns, in a TileScope; the last ones may have fewer of both. k is 1 or more.
inline void multiply_blocks(const Linear<float>& l, Blocks rows, Blocks columns, float* scratch) {
  const int64_t steps = blocks(l.k), part = steps * kPairValues;
  float* const block[2] = {scratch, scratch + kBlockFloats};
  Bf16* const parts = reinterpret_cast<Bf16*>(scratch + 2 * kBlockFloats);
  const Bf16* const w_first = reinterpret_cast<const Bf16*>(l.packed);
  const Bf16* const w_second = w_first + part_values(l.n, l.k);
  const int64_t finish_share = (kRowSlices + steps - 1) / steps;
  const auto split_of = [&](int64_t i) {
    Bf16* const x = parts + i % 2 * 2 * part;
    return i < rows.end ? RowSplit(l, i * kBlock, x, x + part) : RowSplit();
  };
  const Output output{l.m, l.n, l.y, l.ldy, l.accumulate, nullptr, l.residual, l.ldr, l.relu};
  RowSplit split = split_of(rows.begin);
  Finish finish;
  for (int64_t i = rows.begin, side = 0; i < rows.end; ++i) {
    split.do_slices(split.slices());
    split = split_of(i + 1);
    const int64_t products = (columns.end - columns.begin) * steps;
    const int64_t split_share = (split.slices() + products - 1) / products;
    const Bf16* const x = parts + i % 2 * 2 * part;
    for (int64_t j = columns.begin; j < columns.end; ++j, side = 1 - side) {
      zero_accumulators();
      for (int64_t k = 0; k < steps; ++k) {
        const int64_t at = (j * steps + k) * kPairValues;
        multiply_parts(x + k * kPairValues, x + part + k * kPairValues, w_first + at, w_second + at);
        for (int64_t slice = 0; slice < finish_share; ++slice) finish.do_slice();
        split.do_slices(split_share);
      }
      finish.do_all();
      store_accumulators(block[side]);
      finish = Finish(output, block[side], i * kBlock, j * kBlock);
    }
  }
  finish.do_all();
}

QINCO_CPU_NAMESPACE_END
