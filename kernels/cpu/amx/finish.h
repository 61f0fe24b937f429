// What happens to the sums of a product, in slices between the products of the next block: the matrix unit and the
// vector unit work at the same time.
#pragma once

#include "kernels/cpu/amx/tile.h"
#include "kernels/cpu/pack.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kRowSlice = 4;  // rows done at a time
constexpr int64_t kRowSlices = kBlock / kRowSlice;

// Where a product's sums go, and what becomes of them: y = act(acc * y + sums + bias + residual).
struct Output {
  int64_t m, n;
  float* y;  // [m,n]
  int64_t ldy;
  bool accumulate;
  const float* bias;      // [n] or null
  const float* residual;  // [m,n] or null; may be y
  int64_t ldr;
  bool relu;
};

// Takes a C block to its place in y, from (row, column) on, slice by slice.
class Finish {
 public:
  Finish() = default;
  Finish(const Output& output, const float* block, int64_t row, int64_t column)
      : to_(&output), block_(block), row_(row), column_(column), left_(smaller(kBlock, output.m - row)) {}

  QINCO_INLINE void do_slice() {
    const int64_t count = smaller(kRowSlice, left_ - done_);
    if (count <= 0) return;
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t j = column_ + half * kLanes, width = smaller(kLanes, to_->n - j);
      if (width <= 0) break;
      for (int64_t i = done_; i < done_ + count; ++i) {
        float* const out = to_->y + (row_ + i) * to_->ldy + j;
        Vec sum = load(block_ + (i / 16 * 2 + half) * kTileFloats + i % 16 * kLanes);
        if (to_->accumulate) sum = sum + load_partial(out, width);
        if (to_->bias) sum = sum + load_partial(to_->bias + j, width);
        if (to_->residual) sum = sum + load_partial(to_->residual + (row_ + i) * to_->ldr + j, width);
        if (to_->relu) sum = max(Vec(0.0f), sum);
        store_partial(out, sum, width);
      }
    }
    done_ += count;
  }
  void do_all() {
    while (done_ < left_) do_slice();
  }

 private:
  const Output* to_ = nullptr;
  const float* block_ = nullptr;
  int64_t row_ = 0, column_ = 0, left_ = 0, done_ = 0;
};

QINCO_CPU_NAMESPACE_END
