// Reductions. Sums over everything add in double; sums over a row or a column add blocks of floats (row_sums.h).
#include "kernels/cpu/row_sums.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/transpose.h"
#include "kernels/families.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

// Runs span(begin, end) -> double over fixed chunks and adds the results in order.
template <class Span>
double sum_chunks(const Context& context, int64_t n, Span span) {
  const int64_t chunks = (n + kElementGrain - 1) / kElementGrain;
  ScratchFrame frame(context);
  double* const partial = frame.get<double>(chunks);
  parallel_for(context, n, kElementGrain,
               [&](int64_t begin, int64_t end, int) { partial[begin / kElementGrain] = span(begin, end); });
  double total = 0;
  for (int64_t c = 0; c < chunks; ++c) total += partial[c];
  return total;
}

double sum(const Context& context, int64_t n, const float* x) {
  return sum_chunks(context, n, [x](int64_t begin, int64_t end) {
    DoubleVec low = zero_double(), high = zero_double();
    for_lanes(begin, end, [&](int64_t i, auto lanes) {
      const Vec v = lanes.get(x + i);
      low = low + low_half(v);
      high = high + high_half(v);
    });
    return horizontal_sum(low + high);
  });
}

double sum_squared_difference(const Context& context, int64_t n, const float* a, const float* b) {
  return sum_chunks(context, n, [a, b](int64_t begin, int64_t end) {
    DoubleVec low = zero_double(), high = zero_double();
    for_lanes(begin, end, [&](int64_t i, auto lanes) {
      const Vec left = lanes.get(a + i), right = lanes.get(b + i);
      const DoubleVec d0 = low_half(left) - low_half(right), d1 = high_half(left) - high_half(right);
      low = fma(d0, d0, low);
      high = fma(d1, d1, high);
    });
    return horizontal_sum(low + high);
  });
}

// out[i] = the sum over j of what add(j, lanes, x[i,j..], total) adds to `total`: 0 where lanes are not there.
template <class Add>
void sum_rows(const Context& context, int64_t rows, int64_t cols, const float* x, float* out, Add add) {
  const auto add_of = [=](int64_t i) {
    return [row = x + i * cols, add](int64_t j, auto lanes, Vec total) {
      return add(j, lanes, lanes.get(row + j), total);
    };
  };
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    int64_t i = begin;
    // Short rows side by side: a row of one block has the same sum by itself.
    for (; cols <= kSumBlock && i + kLanes <= end; i += kLanes) {
      Vec sums[kLanes];
      for (int64_t r = 0; r < kLanes; ++r) sums[r] = sum_block(0, cols, add_of(i + r));
      store(out + i, horizontal_sums(sums));
    }
    for (; i < end; ++i) out[i] = static_cast<float>(sum_along(cols, add_of(i)));
  });
}

void row_sum(const Context& context, int64_t rows, int64_t cols, const float* x, float* out) {
  sum_rows(context, rows, cols, x, out, [](int64_t, auto, Vec v, Vec total) { return total + v; });
}

void row_squared_norm(const Context& context, int64_t rows, int64_t cols, const float* x, float* out) {
  sum_rows(context, rows, cols, x, out, [](int64_t, auto, Vec v, Vec total) { return fma(v, v, total); });
}

void row_squared_distance(const Context& context, int64_t rows, int64_t cols, const float* x, const float* y,
                          float* out) {
  sum_rows(context, rows, cols, x, out, [y](int64_t j, auto lanes, Vec v, Vec total) {
    const Vec difference = v - lanes.get(y + j);
    return fma(difference, difference, total);
  });
}

// Each chunk of rows adds into float rows of its own, which are then added in double: one row, or kLanes where rows are
// shorter than a vector and so many of them are read as one.
void column_sum(const Context& context, int64_t rows, int64_t cols, const float* x, float* out) {
  const int64_t grain = column_grain(rows, cols), chunks = (rows + grain - 1) / grain;
  const int64_t together = cols < kLanes ? kLanes : 1, width = together * cols;
  ScratchFrame frame(context);
  float* const partial = frame.get<float>(chunks * width);
  parallel_for(context, rows, grain, [&](int64_t begin, int64_t end, int) {
    float* const total = partial + begin / grain * width;
    for (int64_t j = 0; j < width; ++j) total[j] = 0;
    int64_t i = begin;
    for (; i + 4 * together <= end; i += 4 * together) add_rows<4>(width, x + i * cols, total);
    for (; i + together <= end; i += together) add_rows<1>(width, x + i * cols, total);
    for (; i < end; ++i) add_rows<1>(cols, x + i * cols, total);
  });
  add_partials(context, chunks * together, cols, partial, out);
}

// Each lane keeps the first of its smallest values. Lanes begin at infinity, below which nothing infinite or NaN gets:
// an id still unset at the end means that there was nothing else.
int32_t argmin(int64_t cols, const float* x) {
  constexpr int32_t kUnset = 0x7fffffff;
  const Vec infinity(__builtin_inff());
  const IntVec step(static_cast<int32_t>(kLanes));
  Vec best = infinity;
  IntVec ids(kUnset), current = lane_numbers();
  for_lanes(0, cols, [&](int64_t j, auto lanes) {
    const Vec v = lanes.or_else(lanes.get(x + j), infinity);
    const Mask smaller = v < best;
    best = min(v, best);
    ids = select(smaller, current, ids);
    current = current + step;
  });
  const int32_t id = lowest_id(best == Vec(horizontal_min(best)), ids);
  if (id != kUnset) return id;
  for (int64_t j = 0; j < cols; ++j)
    if (x[j] == __builtin_inff()) return static_cast<int32_t>(j);
  return 0;
}

void row_argmin(const Context& context, int64_t rows, int64_t cols, const float* x, int32_t* ids) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) ids[i] = argmin(cols, x + i * cols);
  });
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_reduce(Table<float>& t) {
  t.sum = sum;
  t.sum_squared_difference = sum_squared_difference;
  t.row_sum = row_sum;
  t.column_sum = column_sum;
  t.row_squared_norm = row_squared_norm;
  t.row_squared_distance = row_squared_distance;
  t.row_argmin = row_argmin;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
