// Element-wise operations: the definition. Every value is computed in double and rounded once.
#include "kernels/families.h"
#include "kernels/functors.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

template <class T>
void unary(const Context& context, UnaryOp op, int64_t n, const T* x, T* y) {
  functors::visit_unary(op, [&](auto f) {
    parallel_for(context, n, kElementGrain, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(f.forward(static_cast<double>(x[i])));
    });
  });
}

template <class T>
void unary_backward(const Context& context, UnaryOp op, int64_t n, const T* x, const T* y, const T* dy, T* dx) {
  functors::visit_unary(op, [&](auto f) {
    parallel_for(context, n, kElementGrain, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const double xi = f.kReadsX ? static_cast<double>(x[i]) : 0.0;
        const double yi = f.kReadsY ? static_cast<double>(y[i]) : 0.0;
        dx[i] = static_cast<T>(f.backward(xi, yi, static_cast<double>(dy[i])));
      }
    });
  });
}

template <class T>
void binary(const Context& context, BinaryOp op, int64_t rows, int64_t cols, Operand<T> a, Operand<T> b, T* out) {
  functors::visit_binary(op, [&](auto f) {
    parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = 0; j < cols; ++j) {
          const double left = a.data[i * a.row_stride + j * a.col_stride];
          const double right = b.data[i * b.row_stride + j * b.col_stride];
          out[i * cols + j] = static_cast<T>(f.forward(left, right));
        }
      }
    });
  });
}

template <class T>
void axpby(const Context& context, int64_t n, T alpha, const T* x, T beta, T* y) {
  parallel_for(context, n, kElementGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const double scaled = static_cast<double>(alpha) * x[i];
      y[i] = static_cast<T>(beta == T(0) ? scaled : scaled + static_cast<double>(beta) * y[i]);
    }
  });
}

template <class T>
void fill(const Context& context, int64_t n, T value, T* y) {
  parallel_for(context, n, kElementGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) y[i] = value;
  });
}

}  // namespace

template <class T>
void fill_elementwise(Table<T>& t) {
  t.unary = unary<T>;
  t.unary_backward = unary_backward<T>;
  t.binary = binary<T>;
  t.axpby = axpby<T>;
  t.fill = fill<T>;
}
template void fill_elementwise(Table<float>&);
template void fill_elementwise(Table<double>&);

}  // namespace qinco::kernels::reference
