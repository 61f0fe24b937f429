// Softmax and its relatives over rows: a row is read two or three times while it is in the cache.
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_math.h"
#include "kernels/families.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr float kInfinity = __builtin_inff();

// The largest number of a row; NaN elements are passed over (they show in the sum of exponentials).
float row_maximum(int64_t cols, const float* x) {
  const Vec lowest(-kInfinity);
  Vec largest = lowest;
  for_lanes(0, cols, [&](int64_t j, auto lanes) { largest = max(lanes.or_else(lanes.get(x + j), lowest), largest); });
  return horizontal_max(largest);
}

// The sum of exp(x[j] - shift); with `keep` the terms are stored in y.
template <bool keep>
float sum_of_exponentials(int64_t cols, const float* x, float shift, float* y) {
  const Vec shifts(shift);
  Vec total(0.0f);
  for_lanes(0, cols, [&](int64_t j, auto lanes) {
    const Vec e = exp(lanes.get(x + j) - shifts);
    if constexpr (keep) lanes.put(y + j, e);
    total = total + lanes.or_else(e, Vec(0.0f));
  });
  return horizontal_sum(total);
}

float log_of(float x) {
  alignas(64) float lanes[kLanes];
  store(lanes, log(Vec(x)));
  return lanes[0];
}

void log_sum_exp(const Context& context, int64_t rows, int64_t cols, const float* x, float* out) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const float maximum = row_maximum(cols, x + i * cols);
      const float shift = __builtin_isinf(maximum) ? 0.0f : maximum;
      out[i] = shift + log_of(sum_of_exponentials<false>(cols, x + i * cols, shift, nullptr));
    }
  });
}

void softmax(const Context& context, int64_t rows, int64_t cols, const float* x, float* y) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      float* const row = y + i * cols;
      const float maximum = row_maximum(cols, x + i * cols);
      const Vec total(sum_of_exponentials<true>(cols, x + i * cols, maximum, row));
      const Vec scale = Vec(1.0f) / total;
      for_lanes(0, cols, [&](int64_t j, auto lanes) { lanes.put(row + j, lanes.get(row + j) * scale); });
    }
  });
}

void log_softmax(const Context& context, int64_t rows, int64_t cols, const float* x, float* y) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const float maximum = row_maximum(cols, x + i * cols);
      const Vec shift(maximum), log_total(log_of(sum_of_exponentials<false>(cols, x + i * cols, maximum, nullptr)));
      for_lanes(i * cols, (i + 1) * cols,
                [&](int64_t j, auto lanes) { lanes.put(y + j, (lanes.get(x + j) - shift) - log_total); });
    }
  });
}

// out[j] = op(y[j], dy[j]) along a row, given total = sum_j term(y[j], dy[j]); term(0, 0) is 0.
template <class Term, class Op>
void backward_rows(const Context& context, int64_t rows, int64_t cols, const float* y, const float* dy, float* dx,
                   Term term, Op op) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const float *const yi = y + i * cols, *const dyi = dy + i * cols;
      float* const dxi = dx + i * cols;
      Vec total(0.0f);
      for_lanes(0, cols, [&](int64_t j, auto lanes) { total = term(lanes.get(yi + j), lanes.get(dyi + j), total); });
      const Vec sum(horizontal_sum(total));
      for_lanes(0, cols,
                [&](int64_t j, auto lanes) { lanes.put(dxi + j, op(lanes.get(yi + j), lanes.get(dyi + j), sum)); });
    }
  });
}

void softmax_backward(const Context& context, int64_t rows, int64_t cols, const float* y, const float* dy, float* dx) {
  backward_rows(
      context, rows, cols, y, dy, dx, [](Vec p, Vec g, Vec total) { return fma(p, g, total); },
      [](Vec p, Vec g, Vec sum) { return p * (g - sum); });
}

void log_softmax_backward(const Context& context, int64_t rows, int64_t cols, const float* y, const float* dy,
                          float* dx) {
  backward_rows(
      context, rows, cols, y, dy, dx, [](Vec, Vec g, Vec total) { return total + g; },
      [](Vec log_p, Vec g, Vec sum) { return fma(-exp(log_p), sum, g); });
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_softmax(Table<float>& t) {
  t.log_sum_exp = log_sum_exp;
  t.softmax = softmax;
  t.log_softmax = log_softmax;
  t.softmax_backward = softmax_backward;
  t.log_softmax_backward = log_softmax_backward;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
