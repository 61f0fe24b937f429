// Element-wise operations: the functors of functors.h on vectors. All of these stream, so chunks are sized by the
// cache.
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_math.h"
#include "kernels/families.h"
#include "kernels/functors.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

void unary(const Context& context, UnaryOp op, int64_t n, const float* x, float* y) {
  functors::visit_unary(op, [&](auto f) {
    parallel_for(context, n, kElementGrain, [&](int64_t begin, int64_t end, int) {
      for_lanes(begin, end, [&](int64_t i, auto lanes) { lanes.put(y + i, f.forward(lanes.get(x + i))); });
    });
  });
}

void unary_backward(const Context& context, UnaryOp op, int64_t n, const float* x, const float* y, const float* dy,
                    float* dx) {
  functors::visit_unary(op, [&](auto f) {
    // What f does not read may be null: dy stands in for it, and its load goes away.
    const float* const xs = f.kReadsX ? x : dy;
    const float* const ys = f.kReadsY ? y : dy;
    parallel_for(context, n, kElementGrain, [&](int64_t begin, int64_t end, int) {
      for_lanes(begin, end, [&](int64_t i, auto lanes) {
        lanes.put(dx + i, f.backward(lanes.get(xs + i), lanes.get(ys + i), lanes.get(dy + i)));
      });
    });
  });
}

// out[j] = F(a[j], b[j]) for j in [begin,end); an operand that is repeated is its first element throughout.
template <class F, bool a_repeated, bool b_repeated>
void binary_span(int64_t begin, int64_t end, const float* a, const float* b, float* out) {
  for_lanes(begin, end, [&](int64_t j, auto lanes) {
    const Vec left = a_repeated ? Vec(*a) : lanes.get(a + j);
    const Vec right = b_repeated ? Vec(*b) : lanes.get(b + j);
    lanes.put(out + j, F::forward(left, right));
  });
}

using BinarySpan = void (*)(int64_t begin, int64_t end, const float* a, const float* b, float* out);

template <class F>
BinarySpan choose_span(const Operand<float>& a, const Operand<float>& b) {
  if (a.col_stride == 0 && b.col_stride == 0) return binary_span<F, true, true>;
  if (a.col_stride == 0) return binary_span<F, true, false>;
  if (b.col_stride == 0) return binary_span<F, false, true>;
  return binary_span<F, false, false>;
}

// True if the whole operand can be read as one row of rows * cols elements.
bool is_flat(const Operand<float>& x, int64_t cols) {
  return x.row_stride == cols * x.col_stride;
}

void binary(const Context& context, BinaryOp op, int64_t rows, int64_t cols, Operand<float> a, Operand<float> b,
            float* out) {
  if (cols == 1 && a.row_stride <= 1 && b.row_stride <= 1) {  // a column is read as a row
    a.col_stride = a.row_stride;
    b.col_stride = b.row_stride;
    cols = rows;
    rows = 1;
  } else if (is_flat(a, cols) && is_flat(b, cols)) {
    cols *= rows;
    rows = 1;
  }
  BinarySpan span = nullptr;
  functors::visit_binary(op, [&](auto f) { span = choose_span<decltype(f)>(a, b); });

  if (rows == 1) {
    parallel_for(context, cols, kElementGrain,
                 [&](int64_t begin, int64_t end, int) { span(begin, end, a.data, b.data, out); });
    return;
  }
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      span(0, cols, a.data + i * a.row_stride, b.data + i * b.row_stride, out + i * cols);
  });
}

void axpby(const Context& context, int64_t n, float alpha, const float* x, float beta, float* y) {
  parallel_for(context, n, kElementGrain, [&](int64_t begin, int64_t end, int) {
    if (beta == 0) {
      for_lanes(begin, end, [&](int64_t i, auto lanes) { lanes.put(y + i, Vec(alpha) * lanes.get(x + i)); });
    } else {
      for_lanes(begin, end, [&](int64_t i, auto lanes) {
        lanes.put(y + i, fma(Vec(beta), lanes.get(y + i), Vec(alpha) * lanes.get(x + i)));
      });
    }
  });
}

void fill(const Context& context, int64_t n, float value, float* y) {
  parallel_for(context, n, kElementGrain, [&](int64_t begin, int64_t end, int) {
    for_lanes(begin, end, [&](int64_t i, auto lanes) { lanes.put(y + i, Vec(value)); });
  });
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_elementwise(Table<float>& t) {
  t.unary = unary;
  t.unary_backward = unary_backward;
  t.binary = binary;
  t.axpby = axpby;
  t.fill = fill;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
